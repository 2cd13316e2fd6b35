//! Engine.IO v4: sessions that outlive their HTTP requests and move from polling to a WebSocket. Never knows a Socket.IO packet.
