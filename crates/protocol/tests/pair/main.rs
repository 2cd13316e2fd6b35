//! Stories of the two session machines, told in virtual time over links that can be cut at any message: no socket, no
//! clock, no disk. Every message goes through the real codec. `world::Pair` is where they are played.

mod fake_log;
mod hub;
mod play;
mod world;

mod client_cuts;
mod client_stories;
mod server_delivery;
mod server_emits;
mod server_hello;
