//! What a panic says. Never decides what becomes of whoever panicked.

use std::any::Any;

/// Returns the message of a panic that was caught.
#[must_use]
pub fn panic_message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}
