//! One subscription of a server session. (to be filled)
