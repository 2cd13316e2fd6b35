//! Folding: the oldest commits of the tail become values by topic, which replay reads without touching other topics.

pub(crate) mod manifest;
