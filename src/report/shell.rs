//! Commands that can be run as they are shown.

use crate::error::printable;
use std::borrow::Cow;
use std::path::Path;

/// Names that the command line takes for commands.
const COMMANDS: [&str; 5] = ["crosscheck", "expand", "help", "logits", "mutants"];

/// A path as a shell reads it, which the command line takes for nothing but a path.
pub fn shell_path(path: &Path) -> String {
    let path = path.display().to_string();
    let front = if path.starts_with('-') || COMMANDS.contains(&&*path) { "./" } else { "" };
    shell_word(&format!("{front}{path}"))
}

/// A text as a shell reads it: one word.
pub fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_string();
    }
    match printable(text) {
        Cow::Borrowed(_) => format!("'{}'", text.replace('\'', r"'\''")),
        Cow::Owned(_) => format!("$'{}'", text.chars().map(escaped).collect::<String>()),
    }
}

/// A character between `$'` and `'`.
fn escaped(c: char) -> String {
    match printable(c.encode_utf8(&mut [0; 4])) {
        Cow::Owned(_) => format!("\\U{:08x}", u32::from(c)),
        Cow::Borrowed("'" | "\\") => format!("\\{c}"),
        Cow::Borrowed(c) => c.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_shown_as_a_shell_reads_them() {
        let shown = |path: &str| shell_path(Path::new(path));
        assert_eq!(shown("a/b-1.safetensors"), "a/b-1.safetensors");
        assert_eq!(shown("my model"), "'my model'");
        assert_eq!(shown("it's"), r"'it'\''s'");
        assert_eq!(shown("-x y"), "'./-x y'");
        assert_eq!(shown("expand"), "./expand");
        assert_eq!(shown("a\u{1b}'b\\"), r"$'a\U0000001b\'b\\'");
    }
}
