//! Where connections meet: who is here, who owns what, who is woken. Thin locks around the protocol's registries; nobody
//! ever waits here for another connection.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use redeliver_log::{EmitSource, Log};
use redeliver_protocol::error::{Close, CloseCode, RefusalCode, RetryAdvice};
use redeliver_protocol::event::{NewEvent, VolatileEmit};
use redeliver_protocol::history::{Cursor, Opened};
use redeliver_protocol::name::TopicName;
use redeliver_protocol::redelivery::DeliveredThrough;
use redeliver_protocol::seq::{EmitNumber, InstanceId, PublisherId, SubscriptionId};
use redeliver_protocol::server::marks::{Marks, Reader};
use redeliver_protocol::server::owners::{Claim, ClaimOutcome, Displaced, Displacement, Owners, Promoted};
use redeliver_protocol::server::publishers::{NotYours, Publishers};
use redeliver_protocol::server::{ConnectionId, Input, Reply};

use crate::inbox::Inbox;
use crate::queue::{CursorKey, Events, Queue, Runs};
use crate::wake_task::{self, PendingWakes};
use crate::watching::Watching;

/// The meeting place of a server's connections. Lock order: claims, then watching, then an inbox or the queue.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    claims: Mutex<Claims>,
    watching: Arc<Watching>,
    pending: Arc<PendingWakes>,
}

#[derive(Debug, Default)]
struct Claims {
    owners: Owners,
    publishers: Publishers,
    instances: BTreeMap<ConnectionId, InstanceId>,
    marks: Marks,
}

impl Hub {
    /// Takes a connection in.
    pub(crate) fn join(&self) -> (ConnectionId, Arc<Inbox>) {
        wake_task::start_if_missing(&self.pending, &self.watching);
        self.watching.join()
    }

    /// Forgets a connection; whoever stood by for its topics is next.
    pub(crate) fn leave(&self, connection: ConnectionId) {
        let mut claims = self.claims.lock();
        claims.publishers.release(connection);
        claims.instances.remove(&connection);
        let promoted = claims.owners.release_all(connection);
        self.promote(promoted);
        self.watching.leave(connection);
    }

    /// A connection is authenticated: it speaks for its publisher from now on, and an older one does no longer.
    ///
    /// # Errors
    ///
    /// [`NotYours`] if another identity is connected as this publisher, which stays as it is.
    pub(crate) fn enter(
        &self,
        connection: ConnectionId,
        instance: InstanceId,
        publisher: Option<EmitSource>,
    ) -> Result<(), NotYours> {
        let mut claims = self.claims.lock();
        let fenced = match publisher {
            Some(source) => claims.publishers.claim(source.publisher, source.owner, connection)?,
            None => None,
        };
        claims.instances.insert(connection, instance);
        if let Some(fenced) = fenced {
            let same_client = claims.instances.get(&fenced) == Some(&instance);
            let code = if same_client { CloseCode::SUPERSEDED } else { CloseCode::PUBLISHER_FENCED };
            self.tell(fenced, Input::Displaced(displaced(code)));
        }
        Ok(())
    }

    /// Claims a durable subscriber's topic; the answers go into the inboxes.
    pub(crate) fn claim(&self, claim: Claim) {
        let (connection, id) = (claim.connection, claim.subscription);
        // Under the lock until everybody is told, so that each inbox sees grants and losses in their order.
        let mut claims = self.claims.lock();
        let (granted, displaced) = match claims.owners.claim(claim) {
            ClaimOutcome::Granted { displaced } => (true, displaced),
            ClaimOutcome::Waiting { displaced } => (false, displaced),
        };
        for displaced in displaced {
            self.displace(displaced);
        }
        if granted {
            self.tell(connection, Input::Reply(Reply::Claimed { id }));
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
        (connection, inbox): (ConnectionId, &Arc<Inbox>),
        id: SubscriptionId,
        key: CursorKey,
        cursor: Cursor,
        urgent: bool,
    ) {
        // Fencing: the lock is held until the cursor is queued, so none of a displaced reader comes after one of its
        // successor.
        let claims = self.claims.lock();
        if claims.owners.is_owner(connection, id) {
            queue.save_cursor(key, cursor, (Arc::clone(inbox), id), urgent);
        }
    }

    /// Notes that a durable reader hands over up to here, if the connection still owns the topic: whoever has lost it must
    /// hand nothing more over, since its successor was told already what may have been.
    pub(crate) fn taking(
        &self,
        (connection, id): (ConnectionId, SubscriptionId),
        key: CursorKey,
        mark: DeliveredThrough,
    ) -> bool {
        let claims = &mut *self.claims.lock();
        let is_owner = claims.owners.is_owner(connection, id);
        if let Some(instance) = claims.instances.get(&connection).filter(|_| is_owner) {
            claims.marks.raise(key.0, key.1, *instance, mark);
        }
        is_owner
    }

    /// Says in `opened` what may have been delivered to a durable subscriber that is opened now.
    pub(crate) fn mark_opened(&self, key: &CursorKey, reader: Reader, opened: &mut Opened) {
        self.claims.lock().marks.open(&key.0, &key.1, reader, opened);
    }

    /// Queues events, if the connection still speaks for its publisher; otherwise they are refused in their place.
    /// Returns whether there was room.
    pub(crate) fn append(
        &self,
        queue: &Queue,
        (connection, inbox): (ConnectionId, &Arc<Inbox>),
        publisher: Option<EmitSource>,
        first: EmitNumber,
        events: Events,
    ) -> bool {
        let claims = self.claims.lock();
        let fenced = publisher.is_some_and(|source| !claims.publishers.is_current(source.publisher, connection));
        if fenced {
            let count = u32::try_from(events.len()).unwrap_or(u32::MAX);
            queue.refuse_for(inbox, first, count, RefusalCode::FENCED);
            return true;
        }
        queue.append_for(inbox, publisher, first, events)
    }

    /// Lets the log forget a publisher, if the connection still speaks for it.
    pub(crate) fn retire(&self, connection: ConnectionId, publisher: PublisherId, log: &Log) {
        // Under the lock, so that a newer connection of the publisher comes before it or after it.
        let claims = self.claims.lock();
        if claims.publishers.is_current(publisher, connection) {
            log.retire_publisher(publisher);
        }
    }

    /// Queues an event of a publisher within the process, if its connection still speaks for the publisher.
    ///
    /// # Errors
    ///
    /// Why it is not taken.
    pub(crate) fn append_one(
        &self,
        queue: &Queue,
        connection: ConnectionId,
        source: EmitSource,
        number: EmitNumber,
        event: Result<NewEvent, RefusalCode>,
    ) -> Result<Runs, RefusalCode> {
        let claims = self.claims.lock();
        if !claims.publishers.is_current(source.publisher, connection) {
            return Err(RefusalCode::FENCED);
        }
        queue.append_one(Some(source), number, event)
    }

    /// Wakes a subscription whenever this topic grows.
    pub(crate) fn watch(&self, connection: ConnectionId, id: SubscriptionId, topic: TopicName) {
        self.watching.watch(connection, id, topic);
    }

    /// Wakes the subscription no longer.
    pub(crate) fn unwatch(&self, connection: ConnectionId, id: SubscriptionId) {
        self.watching.unwatch(connection, id);
    }

    /// Wakes who watches one of these topics, which have grown durably: by the wake task if there is one.
    pub(crate) fn wake(&self, topics: Vec<TopicName>) {
        for topic in self.pending.add(topics) {
            self.watching.wake_some(&topic, None, usize::MAX);
        }
    }

    /// Gives an event that is not logged to everybody who follows one of its topics now.
    pub(crate) fn volatile(&self, event: &Arc<VolatileEmit>) {
        self.watching.volatile(event);
    }

    /// Has every connection's rights asked again.
    pub(crate) fn review_all(&self) {
        self.watching.review_all();
    }

    /// The subscriptions of a connection that wait for their topics to grow.
    pub(crate) fn watched_by(&self, connection: ConnectionId) -> Vec<(SubscriptionId, TopicName)> {
        self.watching.watched_by(connection)
    }

    /// Sends a connection away. Returns false if there is no such connection.
    pub(crate) fn end(&self, connection: ConnectionId, close: Close) -> bool {
        self.watching.push(connection, Input::End(close))
    }

    /// Sends everybody away, and whoever comes later.
    pub(crate) fn end_all(&self, close: impl FnMut() -> Close) {
        self.watching.end_all(close);
    }

    /// Puts an input into a connection's inbox. Returns false if there is no such connection.
    pub(crate) fn tell(&self, connection: ConnectionId, input: Input) -> bool {
        self.watching.push(connection, input)
    }

    fn displace(&self, displaced: Displaced) {
        let Displaced { connection, subscription: id, how } = displaced;
        match how {
            Displacement::TakenOver => self.tell(connection, Input::Reply(Reply::TakenOver { id })),
            Displacement::SameInstance => {
                self.tell(connection, Input::Displaced(self::displaced(CloseCode::SUPERSEDED)))
            }
        };
    }

    fn promote(&self, promoted: impl IntoIterator<Item = Promoted>) {
        for Promoted { connection, subscription: id } in promoted {
            self.tell(connection, Input::Reply(Reply::Claimed { id }));
        }
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.pending.end();
    }
}

/// The end of a connection whose place a newer one has taken. It must not fight for it.
fn displaced(code: CloseCode) -> Close {
    Close::of(code, RetryAdvice::Never)
}
