//! How a story is played: messages move one by one, in a fixed order, until nothing is left to happen now; time jumps from
//! timeout to timeout.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use redeliver_protocol::cause::Cause;
use redeliver_protocol::client::{Input as ToClient, Output as FromClient, StreamItem};
use redeliver_protocol::codec;
use redeliver_protocol::request::Response;
use redeliver_protocol::server::{ConnectionId, Input};
use redeliver_protocol::time::Instant;

use crate::hub::Turn;
use crate::world::{Kind, Pair, Real};

/// The way between a connection of the hub and its client.
#[derive(Debug, Default)]
pub(crate) struct Link {
    end: usize,
    /// On the wire.
    pub(crate) to_server: VecDeque<Bytes>,
    to_client: VecDeque<Bytes>,
    /// How many messages still get through in each direction, if the link is to break.
    pub(crate) to_server_left: Option<usize>,
    pub(crate) to_client_left: Option<usize>,
    /// The client has said its last.
    client_is_done: bool,
    /// The server has said its last, and knows the connection no more.
    server_is_done: bool,
    /// The client takes nothing from the wire.
    pub(crate) is_stalled: bool,
}

impl Link {
    /// Everything on the wire is lost, and nothing gets through any more.
    pub(crate) fn lose(&mut self) {
        self.to_server.clear();
        self.is_stalled = true;
    }
}

impl Pair {
    /// Time passes; whoever has a timeout is woken at it.
    pub(crate) fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        self.settle();
        while let Some(next) = self.next_timeout().filter(|next| *next <= until) {
            self.now = self.now.max(next);
            self.tick();
            self.settle();
            let again = self.next_timeout();
            assert!(again.is_none_or(|again| again > self.now), "a timeout is due again as soon as it is over");
        }
        self.now = until;
    }

    /// Plays on until nothing is left to happen now.
    pub(crate) fn settle(&mut self) {
        for _ in 0..STEPS_MAX {
            if !self.step() {
                return;
            }
        }
        panic!("the story does not come to rest");
    }

    pub(crate) fn connect(&mut self, end: usize) {
        assert!(self.ends[end].link.is_none(), "an end has one connection at a time");
        let id = self.hub.accept(self.now);
        let (to_server_left, to_client_left) = std::mem::take(&mut self.next_cut);
        self.links.insert(id, Link { end, to_server_left, to_client_left, ..Link::default() });
        self.ends[end].link = Some(id);
    }

    pub(crate) fn link_mut(&mut self, end: usize) -> &mut Link {
        let id = self.ends[end].link.expect("the connection stands");
        self.links.get_mut(&id).expect("a link for each connection")
    }

    /// A link breaks, and both ends notice.
    pub(crate) fn break_link(&mut self, id: ConnectionId) {
        let Some(link) = self.links.remove(&id) else { return };
        if !link.server_is_done {
            self.hub.ended(id);
        }
        if self.ends[link.end].link == Some(id) {
            self.ends[link.end].link = None;
            self.tell_disconnected(link.end, "the link broke");
        }
    }

    pub(crate) fn drop_links(&mut self) {
        let ids: Vec<_> = self.links.keys().copied().collect();
        ids.into_iter().for_each(|id| self.break_link(id));
    }

    pub(crate) fn tell_disconnected(&mut self, end: usize, words: &str) {
        let now = self.now;
        if let Kind::Real(real) = &mut self.ends[end].kind {
            real.session.handle(ToClient::Disconnected(Cause::of_words(words)), now);
        }
    }

    fn next_timeout(&self) -> Option<Instant> {
        let servers = self.hub.connections.values().filter_map(|connection| connection.session.poll_timeout());
        let clients = self.ends.iter().filter_map(|end| match &end.kind {
            Kind::Real(real) => real.session.poll_timeout(),
            Kind::Scripted { .. } => None,
        });
        servers.chain(clients).min()
    }

    fn tick(&mut self) {
        let now = self.now;
        let is_due = |timeout: Option<Instant>| timeout.is_some_and(|at| at <= now);
        let due = self.hub.connections.iter().filter(|(_, connection)| is_due(connection.session.poll_timeout()));
        let due: Vec<_> = due.map(|(id, _)| *id).collect();
        due.into_iter().for_each(|id| self.hub.input(id, Input::Tick));
        for end in &mut self.ends {
            if let Kind::Real(real) = &mut end.kind
                && is_due(real.session.poll_timeout())
            {
                real.session.handle(ToClient::Tick, now);
            }
        }
    }

    /// Lets one round of things happen. Returns whether anything did.
    fn step(&mut self) -> bool {
        if let Some((id, input)) = self.hub.next_input() {
            self.run(id, input);
            return true;
        }
        let mut moved = false;
        let ids: Vec<_> = self.links.keys().copied().collect();
        for id in ids {
            moved |= self.move_to_server(id);
            moved |= self.move_to_client(id);
        }
        for end in 0..self.ends.len() {
            moved |= self.client_outputs(end);
        }
        moved
    }

    fn run(&mut self, id: ConnectionId, input: Input) {
        let turn = self.hub.run(id, input, self.now);
        let (Some(link), Some(connection)) = (self.links.get_mut(&id), self.hub.connections.get_mut(&id)) else {
            return;
        };
        link.to_client.append(&mut connection.outgoing);
        if turn == Turn::Ends {
            link.server_is_done = true;
            self.hub.ended(id);
        }
    }

    /// Moves one message to the server, if it wants one.
    fn move_to_server(&mut self, id: ConnectionId) -> bool {
        let Some(link) = self.links.get_mut(&id) else { return false };
        if link.server_is_done {
            return false;
        }
        let wants = self.hub.connections.get(&id).is_some_and(|connection| connection.session.wants_message());
        let Some(message) = link.to_server.front().filter(|_| wants).cloned() else {
            if link.client_is_done && link.to_server.is_empty() {
                self.break_link(id);
                return true;
            }
            return false;
        };
        if link.to_server_left == Some(0) {
            self.break_link(id);
            return true;
        }
        link.to_server_left = link.to_server_left.map(|left| left - 1);
        link.to_server.pop_front();
        self.run(id, Input::Message(message));
        true
    }

    /// Moves one message to the client, if it takes any.
    fn move_to_client(&mut self, id: ConnectionId) -> bool {
        let now = self.now;
        let Some(link) = self.links.get_mut(&id).filter(|link| !link.is_stalled) else { return false };
        if link.to_client_left == Some(0) && !link.to_client.is_empty() {
            self.break_link(id);
            return true;
        }
        let Some(message) = link.to_client.pop_front() else {
            if link.server_is_done {
                self.break_link(id);
                return true;
            }
            return false;
        };
        link.to_client_left = link.to_client_left.map(|left| left - 1);
        let (end, is_empty) = (link.end, link.to_client.is_empty());
        if self.ends[end].link == Some(id) {
            match &mut self.ends[end].kind {
                Kind::Real(real) => real.session.handle(ToClient::Message(message), now),
                Kind::Scripted { heard } => {
                    heard.push(codec::decode_from_server(&message).expect("a server's messages can be read"));
                }
            }
        }
        if is_empty {
            self.hub.drained(id);
        }
        true
    }

    fn client_outputs(&mut self, end: usize) -> bool {
        let mut moved = false;
        loop {
            let Kind::Real(real) = &mut self.ends[end].kind else { return moved };
            let Some(output) = real.session.poll_output() else { return moved };
            moved = true;
            match output {
                FromClient::Connect if self.is_up => {
                    self.connect(end);
                    self.tell_session(end, ToClient::Connected);
                }
                FromClient::Connect => {
                    self.tell_session(end, ToClient::Disconnected(Cause::of_words("nobody is there")));
                }
                FromClient::SendHello(hello) => {
                    real.hellos.push(hello.clone());
                    self.write(end, codec::encode_hello(&hello));
                }
                FromClient::Send(frame) => {
                    real.sent.push(frame.clone());
                    self.write(end, codec::encode_client(&frame));
                }
                FromClient::Disconnect(close) => {
                    self.write(end, codec::encode_close(&close));
                    if let Some(id) = self.ends[end].link.take()
                        && let Some(link) = self.links.get_mut(&id)
                    {
                        link.client_is_done = true;
                        link.to_client.clear();
                    }
                }
                other => real.take(other, self.now),
            }
        }
    }

    fn tell_session(&mut self, end: usize, input: ToClient) {
        let now = self.now;
        if let Kind::Real(real) = &mut self.ends[end].kind {
            real.session.handle(input, now);
        }
    }

    fn write(&mut self, end: usize, message: Bytes) {
        let link = self.ends[end].link.and_then(|id| self.links.get_mut(&id));
        if let Some(link) = link {
            link.to_server.push_back(message);
        }
    }
}

impl Real {
    /// What the app makes of an output.
    fn take(&mut self, output: FromClient, now: Instant) {
        match output {
            FromClient::Deliver { id, delivery } => {
                let handled = match &delivery {
                    StreamItem::Event { epoch, record, .. } => {
                        Some((redeliver_protocol::seq::Position::new(*epoch, record.seq), record.nth))
                    }
                    StreamItem::Gap { gap, .. } => Some((gap.through, gap.nth_through)),
                    StreamItem::Subscribed { .. } | StreamItem::CaughtUp { .. } | StreamItem::Volatile { .. } => None,
                };
                self.delivered.push((id, delivery));
                if let Some((position, nth)) = handled.filter(|_| self.acks_at_once) {
                    self.session.handle(ToClient::Ack { id, position, nth }, now);
                }
            }
            FromClient::SaveCursor { id, cursor } if self.saves_at_once => {
                let seq = cursor.place.position.seq;
                self.store.insert(id, cursor);
                self.session.handle(ToClient::CursorSaved { id, seq }, now);
            }
            FromClient::SaveCursor { id, cursor } => self.unsaved.push_back((id, cursor)),
            FromClient::AckConfirmed { id, seq } => drop(self.confirmed.insert(id, seq)),
            FromClient::Unsubscribed { id, why } => self.ended.push((id, why)),
            FromClient::EmitDone { ticket, fate } => {
                assert!(self.receipts.insert(ticket, fate).is_none(), "{ticket:?} was answered twice");
            }
            FromClient::EmitsLost { from, through } => self.lost.push((from, through)),
            FromClient::Ended => self.has_ended = true,
            FromClient::Requested { key, request } => {
                let answer = Response::new(request.kind, request.payload);
                self.session.handle(ToClient::Respond { key, result: Ok(answer) }, now);
            }
            FromClient::RequestDone { ticket, result } => self.answers.push((ticket, result)),
            FromClient::State(_)
            | FromClient::AskAt { .. }
            | FromClient::EmitsHeld { .. }
            | FromClient::Connect
            | FromClient::SendHello(_)
            | FromClient::Send(_)
            | FromClient::Disconnect(_) => {}
        }
    }
}

/// Far more than any story needs.
const STEPS_MAX: usize = 100_000;
