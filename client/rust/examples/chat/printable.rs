//! Makes the texts of models, skills and servers safe to print in a terminal.

/// Returns a text without its unprintable characters. Emoji and texts in all scripts stay readable.
pub(crate) fn printable(text: &str) -> String {
    text.chars().filter(|&character| !is_unprintable(character)).collect()
}

/// Control characters except line feeds and tabs, controls of the direction of text, and other invisible characters. Models
/// and skills could use them to control the terminal, or to deceive its reader.
fn is_unprintable(character: char) -> bool {
    matches!(
        character,
        '\0'..='\x08'
            | '\x0b'..='\x1f'
            | '\x7f'..='\u{9f}'
            | '\u{ad}'
            | '\u{61c}'
            | '\u{115f}'
            | '\u{1160}'
            | '\u{17b4}'
            | '\u{17b5}'
            | '\u{180e}'
            | '\u{200b}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}
