//! sled's panics: one line of the log instead of a backtrace on stderr. A store that panicked must not be used again.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::Once;

use crate::panic::panic_message;

/// Calls sled, whose state is given up for good if it panics: that is why unwinding through it is safe. Returns what it
/// said then; nothing is printed.
pub(super) fn caught<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    install();
    let before = IS_CAUGHT.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(call));
    IS_CAUGHT.set(before);
    result.map_err(|panic| panic_message(panic.as_ref()).to_owned())
}

/// Puts a hook before the process's own, which keeps all panics but sled's.
fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let others = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if IS_CAUGHT.get() {
                // Whoever caught it tells.
            } else if is_of_sled(info) {
                // In a thread of its own: the next call fails for it, and tells what is to be done.
                tracing::error!(panic = panic_message(info.payload()), "sled panicked in a thread of its own");
            } else {
                others(info);
            }
        }));
    });
}

fn is_of_sled(info: &PanicHookInfo<'_>) -> bool {
    info.location().is_some_and(|location| location.file().contains("/sled-0.34"))
}

thread_local! {
    /// Whether a panic of this thread is caught by [`caught`].
    static IS_CAUGHT: Cell<bool> = const { Cell::new(false) };
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn a_panic_becomes_its_message() {
        assert_eq!(caught(|| 7), Ok(7));
        let number = 7;
        assert_eq!(caught::<()>(|| panic!("segment {number}")), Err("segment 7".to_owned()));
        assert_eq!(caught::<()>(|| panic!("plain")), Err("plain".to_owned()));
    }

    #[test]
    fn only_panics_of_the_store_are_kept_from_the_hook_of_the_process() {
        let heard = Arc::new(AtomicUsize::new(0));
        panic::set_hook(Box::new({
            let heard = Arc::clone(&heard);
            move |info| {
                let is_ours = panic_message(info.payload()).starts_with("of the ");
                heard.fetch_add(usize::from(is_ours), Ordering::Relaxed);
            }
        }));
        install();
        assert!(caught::<()>(|| panic!("of the store")).is_err());
        assert_eq!(heard.load(Ordering::Relaxed), 0);
        assert!(panic::catch_unwind(|| panic!("of the app")).is_err());
        assert_eq!(heard.load(Ordering::Relaxed), 1);
    }
}
