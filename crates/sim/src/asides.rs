//! What is not logged: volatile events, and requests both ways. Each has a number of its own, which its payload names.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use redeliver_protocol::client::Input as ClientInput;
use redeliver_protocol::event::{NewEvent, PayloadKind, VolatileEmit};
use redeliver_protocol::name::EventName;
use redeliver_protocol::request::{Refusal, Request, RequestError, RequestTicket, Response};
use redeliver_protocol::seq::SubscriptionId;
use redeliver_protocol::server::{ConnectionId, Input as ServerInput, Reply};

use crate::history::{Entry, Process, number_of};
use crate::world::{Due, World};

impl World {
    pub(crate) fn plan_aside(&mut self, id: Process) {
        let Some(mean) = self.plan.aside_pause else { return };
        let micros = u64::try_from(mean.as_micros()).unwrap_or(0);
        let pause = Duration::from_micros(self.aside_rng.between(0, micros * 2));
        self.queue.after(pause, Due::Aside(id));
    }

    /// A process hands out an event that is not logged, or asks, or is asked.
    pub(crate) fn aside(&mut self, id: Process) {
        let Some(connection) = self.process(id).map(|process| process.connection) else { return };
        if self.calm {
            return;
        }
        self.given.asides += 1;
        let number = self.given.asides;
        match self.aside_rng.below(3) {
            0 => {
                let event = self.volatile(number);
                self.record(Entry::Handing { number, topics: event.topics.clone() });
                self.tell(id, ClientInput::EmitVolatile { event });
            }
            1 => {
                let request = self.request(number);
                self.record(Entry::Asking { number, process: Some(id) });
                self.tell(id, ClientInput::Request { ticket: RequestTicket(number), request });
            }
            _ => {
                let request = self.request(number);
                self.record(Entry::Asking { number, process: None });
                if let Some(connection) = connection {
                    self.serve(
                        connection,
                        ServerInput::Reply(Reply::Request { ticket: RequestTicket(number), request }),
                    );
                }
            }
        }
        self.plan_aside(id);
    }

    /// The server gives an event that is not logged to whoever follows one of its topics now.
    pub(crate) fn hand_out(&mut self, event: NewEvent) {
        let event = Arc::new(VolatileEmit { time: self.wall(), event });
        let mut reached: BTreeMap<ConnectionId, Vec<SubscriptionId>> = BTreeMap::new();
        let Some(server) = &self.server else { return };
        for topic in &event.event.topics {
            for (connection, id, ()) in server.watchers.watchers_of(topic, None) {
                reached.entry(connection).or_default().push(id);
            }
        }
        for (connection, ids) in reached {
            self.queue.after(
                Duration::ZERO,
                Due::Serve(connection, ServerInput::Reply(Reply::Volatile { ids, event: Arc::clone(&event) })),
            );
        }
    }

    /// An app is asked: when it answers, and what.
    pub(crate) fn asked(&mut self, request: &Request) -> (Duration, Result<Response, Refusal>) {
        let number = number_of(&request.payload).unwrap_or(0);
        self.record(Entry::Asked { number });
        let pause = Duration::from_micros(*self.aside_rng.pick(&[0, 1_000, 100_000, 2_000_000]));
        let payload = Bytes::from(format!("answer {number}"));
        (pause, Ok(Response::new(PayloadKind::Text, payload)))
    }

    /// Whoever asked has an answer, or will have none.
    pub(crate) fn ask_done(&mut self, ticket: RequestTicket, result: &Result<Response, RequestError>) {
        let result = match result {
            Ok(answer) => Ok(number_of(&answer.payload)),
            Err(error) => Err(error.clone()),
        };
        self.record(Entry::Answered { number: ticket.0, result });
    }

    fn request(&mut self, number: u64) -> Request {
        Request::new(
            name(),
            PayloadKind::Text,
            Bytes::from(format!("question {number}")),
            Duration::from_millis(*self.aside_rng.pick(&[10, 300, 3_000])),
        )
    }

    fn volatile(&mut self, number: u64) -> NewEvent {
        let mut topics = self.plan.topics.clone();
        while topics.len() > 1 && self.aside_rng.chance(500) {
            topics.remove(self.aside_rng.index(topics.len()));
        }
        let padding = "x".repeat(*self.aside_rng.pick(&[0, 0, 100, 5_000]));
        let payload = format!("volatile {number} {padding}");
        let mut event = NewEvent::new(topics[0].clone(), name(), PayloadKind::Text, payload);
        event.topics = topics;
        event
    }
}

fn name() -> EventName {
    // Invariant: a constant valid name.
    EventName::new("aside").expect("a constant valid name")
}
