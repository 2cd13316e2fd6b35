//! sim

pub mod checker;
pub mod history;
pub mod queue;
pub mod rng;
