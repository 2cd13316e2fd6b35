//! Socket.IO v5 packets, parsed and encoded over slices of raw JSON. Pure: no IO, no clock.
