//! Seeds that once found a bug. They are run again by the tests, and drawn as they were then.

/// Seeds that once failed. Each tells what it found; none may fail again.
///
/// A seed tells its story only as long as the plan draws the same from it. What a story taught is therefore held by a test
/// beside the code that was mended, too; these remain because they are good seeds.
pub const REGRESSIONS: &[u64] = &[
    // A durable reader was cut off without noticing that another had taken its place, and resumed after that one had
    // been given events and lost its connection, too: they came again and were not marked (client, server's marks).
    239, 501,
    // A reader stood in a part of an epoch that a restored log had lost. It was sent back to an older epoch, or to the
    // beginning, and was given again what it had handled (log, last common place).
    161, 186,
    // The wall clock went back by a day. From then on events were stamped older than retention's own clock, and retention
    // by age took them as soon as they were written (log, event times).
    113,
    // An event beyond this server's limits spent a number before Welcome and none after it. A process that emitted the
    // same once more gave its numbers to other events (client, refusals).
    24, 46, 144,
    // One reader's place lay behind another's of the same name, with trimmed events between: the checker was wrong.
    274, 282, 491, 20134, 20636, 30853, 31386, 31553, 32002,
];

/// Seeds with merged subscriptions that once failed: drawn with all that was drawn then.
///
/// A merged subscription was told that it had caught up with the head of the topic that was opened last, while events that
/// another topic had got meanwhile were still to come (client, merged).
pub const MERGED_REGRESSIONS: &[u64] = &[12, 53, 156, 293];

/// Seeds that failed when rewinds, except lists and set clocks were new: drawn with all that is drawn today.
pub const LATER_REGRESSIONS: &[u64] = &[
    // A log was put back twice, the second time to an older copy: the client did not tell that more of its emits were lost
    // (client, outbox).
    1497,
    // The checker was wrong: about the age of what a crash left unannounced, readers that a rewind had overtaken, and
    // numbers that the log has forgotten.
    112, 119, 222, 322, 551, 868, 1202, 1474, 3171, 5654, 7529,
];
