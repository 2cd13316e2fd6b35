//! The client session alone: the server's part is read from a script, so that a server can be made to do what ours
//! never would. Stories of both ends together stand in `pair`.

mod any_server;
mod connections;
mod cursors;
mod emits;
mod ends;
mod script;
mod streams;
