//! Turns sled's panics into words. A store that panicked must not be used again.

use std::any::Any;
use std::panic::{self, AssertUnwindSafe};

/// Calls sled, whose state is given up for good if it panics: that is why unwinding through it is safe.
pub(super) fn caught<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    panic::catch_unwind(AssertUnwindSafe(call)).map_err(|panic| words(panic.as_ref()))
}

fn words(panic: &(dyn Any + Send)) -> String {
    if let Some(words) = panic.downcast_ref::<&str>() {
        (*words).to_owned()
    } else if let Some(words) = panic.downcast_ref::<String>() {
        words.clone()
    } else {
        "without a message".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_its_message() {
        assert_eq!(caught(|| 7), Ok(7));
        let number = 7;
        assert_eq!(caught::<()>(|| panic!("segment {number}")), Err("segment 7".to_owned()));
        assert_eq!(caught::<()>(|| panic!("plain")), Err("plain".to_owned()));
    }
}
