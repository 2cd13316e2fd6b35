//! Stories of subscriptions, as the server sees them.
