//! The texts that the terminal chat prints.

use serde::Deserialize;

use crate::support::vectors;

#[path = "../../examples/chat/printable.rs"]
mod example;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TerminalText {
    name: String,
    text: String,
    printed: String,
}

#[test]
fn only_printable_characters_are_printed() {
    for vector in vectors::read::<Vec<TerminalText>>(vectors::TERMINAL) {
        assert_eq!(example::printable(&vector.text), vector.printed, "{}", vector.name);
    }
}
