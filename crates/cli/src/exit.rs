//! How the program ends: its exit codes, and problems in the words that people read.
//!
//! The codes are part of the interface (`redeliver help` lists them) and never change their meaning.

use std::fmt;

/// How a command ended. Errors are not among these: they end the program through [`Problem`] or any other error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Everything was done.
    Success,
    /// Something failed.
    Failure,
    /// The command line makes no sense.
    Usage,
    /// Another listener has taken the subscriber over.
    TakenOver,
    /// The time given with `--timeout` was over.
    TimedOut,
    /// Ended by SIGINT before everything was done.
    Interrupted,
    /// Ended by SIGTERM before everything was done.
    Terminated,
}

impl Exit {
    pub(crate) fn code(self) -> u8 {
        match self {
            Exit::Success => 0,
            Exit::Failure => 1,
            Exit::Usage => 2,
            Exit::TakenOver => 3,
            Exit::TimedOut => 4,
            Exit::Interrupted => 130,
            Exit::Terminated => 143,
        }
    }
}

/// A failure with advice on what to do, and its own exit code where it has one.
#[derive(Debug)]
pub(crate) struct Problem {
    words: String,
    hint: Option<String>,
    exit: Exit,
}

impl Problem {
    pub(crate) fn new(words: impl Into<String>) -> Problem {
        Problem { words: words.into(), hint: None, exit: Exit::Failure }
    }

    /// The same problem with more words.
    pub(crate) fn and(mut self, words: &str) -> Problem {
        self.words = format!("{}; {words}", self.words);
        self
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Problem {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn exit(mut self, exit: Exit) -> Problem {
        self.exit = exit;
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

impl std::error::Error for Problem {}

/// Writes an error as `error: …` and, where there is advice, `hint: …`; says how the program ends.
pub(crate) fn report(error: &anyhow::Error, out: &mut impl std::io::Write) -> Exit {
    // Nothing can be done about an stderr that is closed.
    let _ = writeln!(out, "error: {error:#}");
    let Some(problem) = error.downcast_ref::<Problem>() else { return Exit::Failure };
    if let Some(hint) = &problem.hint {
        let _ = writeln!(out, "hint: {hint}");
    }
    problem.exit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_told_with_its_hint_and_ends_with_its_code() {
        let problem = Problem::new("the server is away").hint("start it").exit(Exit::TimedOut);
        let error = anyhow::Error::new(problem).context("cannot emit");
        let mut out = Vec::new();
        assert_eq!(report(&error, &mut out).code(), 4);
        assert_eq!(String::from_utf8(out).unwrap(), "error: cannot emit: the server is away\nhint: start it\n");
    }
}
