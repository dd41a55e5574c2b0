//! Configurations: a text is understood, or refused in one line that names place and key.

use verneuil_config::{Config, ConfigError, Position, TargetConfig};
use verneuil_fuzz::memory::bounded;
use verneuil_fuzz::{fuzz, script, seeds};

/// A syntax tree takes some hundred bytes per value of two bytes.
const PARSED_FACTOR: usize = 512;
/// Compiled globs.
const PARSED_BYTES: usize = 4 << 20;

/// The place is one of the text's.
fn stands_in(text: &str, at: &Position) {
    assert_eq!(at.origin, "the test");
    let line = text
        .split('\n')
        .nth(at.line - 1)
        .expect("a line of the text");
    assert!((1..=line.chars().count() + 1).contains(&at.column), "{at}");
}

fn refused(text: &str, error: &ConfigError) {
    let said = error.to_string();
    assert!(
        said.starts_with("the test:") && !said.contains('\n'),
        "{said:?}"
    );
    match error {
        ConfigError::Syntax { at, .. } => stands_in(text, at),
        ConfigError::Key {
            at,
            key,
            problem,
            remedy,
        } => {
            stands_in(text, at);
            // A text may have a key of no letters.
            assert!(!key.is_empty() || text.contains("\"\""), "{said}");
            assert!(!problem.is_empty() && !remedy.is_empty(), "{said}");
        }
        other => panic!("{other}"),
    }
}

#[test]
fn any_text_is_a_configuration_or_is_refused_with_place_and_key() {
    let objects = seeds::bytes_of(&seeds::configurations());
    fuzz!("configuration", |input: &[u8]| {
        let bytes = script::object(&objects, input, input.first().is_some_and(u8::is_ascii));
        let text = String::from_utf8_lossy(&bytes);
        // That would be the name of a file.
        if text.trim_start_matches('\u{feff}').trim().starts_with('@') {
            return;
        }
        let parsed = bounded(
            "a configuration",
            text.len(),
            PARSED_FACTOR,
            PARSED_BYTES,
            || Config::parse(&text, "the test"),
        );
        match parsed {
            Ok(config) => {
                // What the spool writes down beside a database is what it reads again.
                for target in &config.targets {
                    let record = serde_json::to_string(target).expect("a record");
                    let again: TargetConfig = serde_json::from_str(&record).expect("a target");
                    assert_eq!(&again, target);
                }
                assert_eq!(Config::parse(&text, "the test").ok(), Some(config));
            }
            Err(error) => refused(text.trim_start_matches('\u{feff}'), &error),
        }
    });
}
