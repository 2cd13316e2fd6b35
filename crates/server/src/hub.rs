//! Where connections meet: who is here, who owns what, who is woken. Thin locks around the protocol's registries; nobody
//! ever waits here for another connection.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use redeliver_protocol::error::{Close, CloseCode, RefusalCode, RetryAdvice};
use redeliver_protocol::event::VolatileEvent;
use redeliver_protocol::history::Cursor;
use redeliver_protocol::name::TopicName;
use redeliver_protocol::seq::{EmitNumber, InstanceId, PublisherId, SubscriptionId};
use redeliver_protocol::server::owners::{Claim, ClaimOutcome, Displaced, Displacement, Owners, Promoted};
use redeliver_protocol::server::publishers::Publishers;
use redeliver_protocol::server::watchers::Watchers;
use redeliver_protocol::server::{ConnectionId, Input};

use crate::herald::{self, News};
use crate::mailbox::Mailbox;
use crate::queue::{CursorKey, Events, Queue};

/// One watch of a topic.
pub(crate) type Watch = (ConnectionId, SubscriptionId);

/// The meeting place of a server's connections. Lock order: claims, then members, then a mailbox or the queue.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    claims: Mutex<Claims>,
    members: Mutex<Members>,
    news: Arc<News>,
}

#[derive(Debug, Default)]
struct Claims {
    owners: Owners,
    publishers: Publishers,
    instances: BTreeMap<ConnectionId, InstanceId>,
}

#[derive(Debug, Default)]
struct Members {
    mailboxes: BTreeMap<ConnectionId, Arc<Mailbox>>,
    watchers: Watchers<Arc<Mailbox>>,
    last: ConnectionId,
    /// Set once everybody is sent away: newcomers are too.
    ending: Option<Close>,
}

impl Hub {
    /// Takes a connection in.
    pub(crate) fn join(self: &Arc<Self>) -> (ConnectionId, Arc<Mailbox>) {
        herald::attend(&self.news, &Arc::downgrade(self));
        let mut members = self.members.lock();
        members.last = ConnectionId(members.last.0 + 1);
        let (connection, mailbox) = (members.last, Arc::new(Mailbox::default()));
        members.mailboxes.insert(connection, Arc::clone(&mailbox));
        if let Some(close) = &members.ending {
            mailbox.answer(Input::End(close.clone()));
        }
        (connection, mailbox)
    }

    /// Forgets a connection; whoever stood by for its topics is next.
    pub(crate) fn leave(&self, connection: ConnectionId) {
        let mut claims = self.claims.lock();
        claims.publishers.release(connection);
        claims.instances.remove(&connection);
        let promoted = claims.owners.release_all(connection);
        self.promote(promoted);
        let mut members = self.members.lock();
        members.watchers.remove_connection(connection);
        members.mailboxes.remove(&connection);
    }

    /// A connection is authenticated: it speaks for its publisher from now on, and an older one does no longer.
    pub(crate) fn enter(&self, connection: ConnectionId, instance: InstanceId, publisher: Option<PublisherId>) {
        let mut claims = self.claims.lock();
        claims.instances.insert(connection, instance);
        let fenced = publisher.and_then(|publisher| claims.publishers.claim(publisher, connection));
        if let Some(fenced) = fenced {
            let same_client = claims.instances.get(&fenced) == Some(&instance);
            let code = if same_client { CloseCode::Superseded } else { CloseCode::PublisherFenced };
            self.answer(fenced, Input::Displaced(displaced(code)));
        }
    }

    /// Claims a durable subscriber's topic; the answers go into the mailboxes.
    pub(crate) fn claim(&self, claim: Claim) {
        let (connection, id) = (claim.connection, claim.subscription);
        // Under the lock until everybody is told, so that each mailbox sees grants and losses in their order.
        let mut claims = self.claims.lock();
        let (granted, displaced) = match claims.owners.claim(claim) {
            ClaimOutcome::Granted { displaced } => (true, displaced),
            ClaimOutcome::Waiting { displaced } => (false, displaced),
        };
        for displaced in displaced {
            self.displace(displaced);
        }
        if granted {
            self.answer(connection, Input::Claimed { id });
        }
    }

    /// Gives a claim up.
    pub(crate) fn release(&self, connection: ConnectionId, id: SubscriptionId) {
        let mut claims = self.claims.lock();
        let promoted = claims.owners.release(connection, id);
        self.promote(promoted);
    }

    /// Queues a cursor, if its connection still owns the topic. A displaced one is not answered: it has been told.
    pub(crate) fn save_cursor(
        &self,
        queue: &Queue,
        (connection, mailbox): (ConnectionId, &Arc<Mailbox>),
        id: SubscriptionId,
        key: CursorKey,
        cursor: Cursor,
        urgent: bool,
    ) {
        // Fencing: the lock is held until the cursor is queued, so none of a displaced reader comes after one of its
        // successor.
        let claims = self.claims.lock();
        if claims.owners.is_owner(connection, id) {
            queue.save_cursor(key, cursor, (Arc::clone(mailbox), id), urgent);
        }
    }

    /// Queues events, if the connection still speaks for its publisher; otherwise they are refused in their place.
    /// Returns whether there was room.
    pub(crate) fn append(
        &self,
        queue: &Queue,
        (connection, mailbox): (ConnectionId, &Arc<Mailbox>),
        publisher: Option<(PublisherId, EmitNumber)>,
        first: EmitNumber,
        events: Events,
    ) -> bool {
        let claims = self.claims.lock();
        let fenced = publisher.is_some_and(|(publisher, _)| !claims.publishers.is_current(publisher, connection));
        if fenced {
            let count = u32::try_from(events.len()).unwrap_or(u32::MAX);
            queue.refuse_for(mailbox, first, count, RefusalCode::Fenced);
            return true;
        }
        queue.append_for(mailbox, publisher, first, events)
    }

    /// Wakes a subscription whenever this topic grows.
    pub(crate) fn watch(&self, connection: ConnectionId, id: SubscriptionId, topic: TopicName) {
        let mut members = self.members.lock();
        let Members { mailboxes, watchers, .. } = &mut *members;
        if let Some(mailbox) = mailboxes.get(&connection) {
            watchers.watch(connection, id, topic, Arc::clone(mailbox));
        }
    }

    /// Wakes it no longer.
    pub(crate) fn unwatch(&self, connection: ConnectionId, id: SubscriptionId) {
        self.members.lock().watchers.unwatch(connection, id);
    }

    /// These topics have grown durably: who watches them is woken, by the herald if there is one.
    pub(crate) fn wake(&self, topics: Vec<TopicName>) {
        for topic in self.news.tell(topics) {
            self.wake_some(&topic, None, usize::MAX);
        }
    }

    /// Wakes at most so many of a topic's watchers behind the given one. Returns how many, and behind whom to go on if
    /// there may be more.
    pub(crate) fn wake_some(&self, topic: &TopicName, after: Option<Watch>, most: usize) -> (usize, Option<Watch>) {
        let members = self.members.lock();
        let (mut woken, mut last) = (0, None);
        for (connection, id, mailbox) in members.watchers.watchers_of(topic, after).take(most) {
            mailbox.grew(id);
            woken += 1;
            last = Some((connection, id));
        }
        (woken, last.filter(|_| woken == most))
    }

    /// Leaves an event that is not logged with everybody who follows one of its topics now.
    pub(crate) fn volatile(&self, event: &Arc<VolatileEvent>) {
        let members = self.members.lock();
        // Each mailbox sees all its subscriptions of one event in a row, since nobody comes between them.
        for topic in &event.event.topics {
            for (_, id, mailbox) in members.watchers.watchers_of(topic, None) {
                mailbox.volatile(id, event);
            }
        }
    }

    /// Sends a connection away. Says whether there is one.
    pub(crate) fn end(&self, connection: ConnectionId, close: Close) -> bool {
        let members = self.members.lock();
        let mailbox = members.mailboxes.get(&connection);
        if let Some(mailbox) = mailbox {
            mailbox.answer(Input::End(close));
        }
        mailbox.is_some()
    }

    /// Sends everybody away, and whoever comes later.
    pub(crate) fn end_all(&self, mut close: impl FnMut() -> Close) {
        let mut members = self.members.lock();
        for mailbox in members.mailboxes.values() {
            mailbox.answer(Input::End(close()));
        }
        members.ending = Some(close());
    }

    /// Leaves word for a connection. False if it is no more.
    pub(crate) fn tell(&self, connection: ConnectionId, input: Input) -> bool {
        let members = self.members.lock();
        let mailbox = members.mailboxes.get(&connection);
        if let Some(mailbox) = mailbox {
            mailbox.answer(input);
        }
        mailbox.is_some()
    }

    fn displace(&self, displaced: Displaced) {
        let Displaced { connection, subscription: id, how } = displaced;
        match how {
            Displacement::TakenOver => self.answer(connection, Input::TakenOver { id }),
            Displacement::SameInstance => {
                self.answer(connection, Input::Displaced(self::displaced(CloseCode::Superseded)));
            }
        }
    }

    fn promote(&self, promoted: impl IntoIterator<Item = Promoted>) {
        for Promoted { connection, subscription: id } in promoted {
            self.answer(connection, Input::Claimed { id });
        }
    }

    fn answer(&self, connection: ConnectionId, input: Input) {
        if let Some(mailbox) = self.members.lock().mailboxes.get(&connection) {
            mailbox.answer(input);
        }
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.news.end();
    }
}

/// The end of a connection whose place a newer one has taken. It must not fight for it.
fn displaced(code: CloseCode) -> Close {
    Close { code, reason: code.description().to_owned(), retry: RetryAdvice::Never }
}
