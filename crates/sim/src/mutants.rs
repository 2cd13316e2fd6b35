//! Servers and apps that are broken on purpose. They are broken in the simulation's own shell, never in the product, and
//! each must be convicted: that is how the checker earns its trust.

/// What is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mutant {
    /// Emits are acknowledged before their commit is synced.
    AckBeforeSync,
    /// Events are delivered before their commit is synced.
    DeliverBeforeSync,
    /// An app's events are acknowledged before its handler is done.
    CursorBeforeHandler,
    /// Displaced owners are not told, and their acks count.
    NoFencing,
    /// A merged subscription leaves out one of its topics.
    MergedMemberSkipped,
    /// A publisher's identity is not looked at: whoever names a publisher speaks for it.
    IdentityNotChecked,
    /// A client shows the place in its store without its positions in earlier epochs.
    LineageLeftOut,
    /// A number that never came is answered as one that was stored long ago.
    HoleTakenForStored,
    /// A rewind gives events again, but its cursor stays where it was.
    RewindLeavesCursor,
    /// Events go to everybody, whatever their except lists say.
    ExceptIgnored,
    /// Age goes by the wall clock as it is.
    AgeByRawClock,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Mutant; 11] = [
        Mutant::AckBeforeSync,
        Mutant::DeliverBeforeSync,
        Mutant::CursorBeforeHandler,
        Mutant::NoFencing,
        Mutant::MergedMemberSkipped,
        Mutant::LineageLeftOut,
        Mutant::IdentityNotChecked,
        Mutant::HoleTakenForStored,
        Mutant::RewindLeavesCursor,
        Mutant::ExceptIgnored,
        Mutant::AgeByRawClock,
    ];

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Mutant::AckBeforeSync => "ack-before-sync",
            Mutant::DeliverBeforeSync => "deliver-before-sync",
            Mutant::CursorBeforeHandler => "cursor-before-handler",
            Mutant::NoFencing => "no-fencing",
            Mutant::MergedMemberSkipped => "merged-member-skipped",
            Mutant::LineageLeftOut => "lineage-left-out",
            Mutant::IdentityNotChecked => "identity-not-checked",
            Mutant::HoleTakenForStored => "hole-taken-for-stored",
            Mutant::RewindLeavesCursor => "rewind-leaves-cursor",
            Mutant::ExceptIgnored => "except-ignored",
            Mutant::AgeByRawClock => "age-by-raw-clock",
        }
    }

    pub(crate) fn skips_sync(self) -> bool {
        matches!(self, Mutant::AckBeforeSync | Mutant::DeliverBeforeSync)
    }
}
