//! What was added to version 1 of the protocol, as bits that both peers agree on in Hello. Imports nothing of this
//! crate.

/// The features that this crate has.
pub const FEATURES: Features = Features::VOLATILE
    .or(Features::EXCEPT)
    .or(Features::REQUESTS)
    .or(Features::MERGED)
    .or(Features::FIRST_START)
    .or(Features::TAKING)
    .or(Features::RESUMING);

/// What was added to version 1, as a set of bits.
///
/// Hello names what the client has. A server that welcomes it has all of that, and both use nothing else on this
/// connection; a server that lacks some of it closes with `VersionMismatch`, and the fixed bytes of its Close say what
/// it has, so that the client can greet again with less.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Features(pub u32);

impl Features {
    /// Version 1 as it was first made.
    pub const NONE: Features = Features(0);
    /// Events that are not logged: frame `Volatile`, both ways.
    pub const VOLATILE: Features = Features(1);
    /// Events that some readers are not to get: frame `EmitExcept`, and marks in the kind of records
    /// ([`RecordKind`](crate::event::RecordKind)).
    pub const EXCEPT: Features = Features(1 << 1);
    /// Requests with answers, both ways: frames `Request` and `Reply`.
    pub const REQUESTS: Features = Features(1 << 2);
    /// Several topics read as one: frames `SubscribeMerged` and `BeginMerged`.
    pub const MERGED: Features = Features(1 << 3);
    /// A durable subscription says where it starts if the server does not know it yet: `Start::ResumeOr`.
    pub const FIRST_START: Features = Features(1 << 8);
    /// A durable reader says what it is about to hand over: frames `Taking` and `Taken`.
    pub const TAKING: Features = Features(1 << 9);

    /// A durable reader that goes on with a subscription says so, and what it was given: frame `Resuming`.
    pub const RESUMING: Features = Features(1 << 10);

    /// Whether all of `others` are in here.
    #[must_use]
    pub const fn has(self, others: Features) -> bool {
        self.0 & others.0 == others.0
    }

    /// What both have.
    #[must_use]
    pub const fn and(self, others: Features) -> Features {
        Features(self.0 & others.0)
    }

    /// What either has.
    #[must_use]
    pub const fn or(self, others: Features) -> Features {
        Features(self.0 | others.0)
    }

    /// What is in here and not in `others`.
    #[must_use]
    pub const fn without(self, others: Features) -> Features {
        Features(self.0 & !others.0)
    }
}
