//! Reads typed values out of a JSON-with-comments syntax tree, for `keys`; knows the position of
//! every key and value, and that no key may go unread.
//!
//! A tree with byte ranges, not serde: serde reports where *parsing* stood when a value was found
//! bad and names its type rather than its key; and unknown keys, repeated keys and bad values are
//! exactly what a user needs to be pointed at.

use crate::{ConfigError, Position};
use jsonc_parser::ast;
use jsonc_parser::common::Ranged;
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};

pub(crate) type Result<T> = std::result::Result<T, ConfigError>;

/// A text and what to call it in errors.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    text: &'a str,
    origin: &'a str,
}

impl<'a> Source<'a> {
    pub(crate) fn new(text: &'a str, origin: &'a str) -> Self {
        Self { text, origin }
    }

    /// Parses the text: JSON with comments and trailing commas, and nothing looser.
    pub(crate) fn parse(self) -> Result<ast::Value<'a>> {
        let options = ParseOptions {
            allow_comments: true,
            allow_trailing_commas: true,
            allow_loose_object_property_names: false,
            allow_missing_commas: false,
            allow_single_quoted_strings: false,
            allow_hexadecimal_numbers: false,
            allow_unary_plus_numbers: false,
            allow_bare_decimal_point_numbers: false,
            allow_non_finite_numbers: false,
            allow_extended_string_escapes: false,
        };
        let parsed =
            parse_to_ast(self.text, &CollectOptions::default(), &options).map_err(|error| {
                ConfigError::Syntax {
                    at: self.position(error.range().start),
                    problem: error.kind().to_string(),
                }
            })?;
        parsed.value.ok_or_else(|| ConfigError::Syntax {
            at: self.position(self.text.len()),
            problem: "there is nothing here".to_owned(),
        })
    }

    fn position(self, byte: usize) -> Position {
        let before = self.text.get(..byte).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Position {
            origin: self.origin.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }

    fn error(
        self,
        byte: usize,
        key: &str,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> ConfigError {
        ConfigError::Key {
            at: self.position(byte),
            key: key.to_owned(),
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }
}

/// A value together with the key that leads to it.
pub(crate) struct Value<'a, 't> {
    source: Source<'a>,
    key: String,
    value: &'t ast::Value<'a>,
}

impl<'a, 't> Value<'a, 't> {
    /// The whole text; errors call it "(top level)".
    pub(crate) fn root(source: Source<'a>, value: &'t ast::Value<'a>) -> Self {
        Self {
            source,
            key: String::new(),
            value,
        }
    }

    /// The error that this value is bad.
    pub(crate) fn bad(&self, problem: impl Into<String>, remedy: impl Into<String>) -> ConfigError {
        let key = if self.key.is_empty() {
            "(top level)"
        } else {
            &self.key
        };
        self.source.error(self.value.start(), key, problem, remedy)
    }

    /// Where the value stands, for errors about another one.
    pub(crate) fn place(&self) -> String {
        let at = self.source.position(self.value.start());
        format!("line {}, column {}", at.line, at.column)
    }

    fn wrong_type(&self, wanted: &str) -> ConfigError {
        let found = match self.value {
            ast::Value::StringLit(_) => "a string",
            ast::Value::NumberLit(_) => "a number",
            ast::Value::BooleanLit(_) => "true or false",
            ast::Value::Object(_) => "an object",
            ast::Value::Array(_) => "a list",
            ast::Value::NullKeyword(_) => "null",
        };
        self.bad(format!("{found} stands here"), format!("give {wanted}"))
    }

    pub(crate) fn string(&self) -> Result<&str> {
        match self.value {
            ast::Value::StringLit(literal) => Ok(&literal.value),
            _ => Err(self.wrong_type("a string")),
        }
    }

    /// The string, unless the value is of another type.
    pub(crate) fn as_string(&self) -> Option<&str> {
        self.value.as_string_lit().map(|literal| &*literal.value)
    }

    pub(crate) fn boolean(&self) -> Result<bool> {
        match self.value {
            ast::Value::BooleanLit(literal) => Ok(literal.value),
            _ => Err(self.wrong_type("true or false")),
        }
    }

    /// The meaning of a string that is one of a few.
    pub(crate) fn one_of<T: Copy>(&self, choices: &[(&str, T)]) -> Result<T> {
        let names: Vec<_> = choices
            .iter()
            .map(|(name, _)| format!("{name:?}"))
            .collect();
        let wanted = format!("one of {}", names.join(", "));
        let Some(text) = self.as_string() else {
            return Err(self.wrong_type(&wanted));
        };
        match choices.iter().find(|(name, _)| *name == text) {
            Some((_, meaning)) => Ok(*meaning),
            None => Err(self.bad(
                format!("{text:?} is not accepted here"),
                format!("give {wanted}"),
            )),
        }
    }

    /// A whole number from `min` to `max`.
    pub(crate) fn integer(&self, min: u64, max: u64) -> Result<u64> {
        let wanted = format!("a whole number from {min} to {max}");
        let ast::Value::NumberLit(literal) = self.value else {
            return Err(self.wrong_type(&wanted));
        };
        match literal.value.parse() {
            Ok(number) if (min..=max).contains(&number) => Ok(number),
            _ => Err(self.bad(
                format!("{} is not accepted here", literal.value),
                format!("give {wanted}"),
            )),
        }
    }

    /// A number from `min` to `max`, which may have a fraction.
    pub(crate) fn number(&self, min: f64, max: f64) -> Result<f64> {
        let wanted = format!("a number from {min} to {max}");
        let ast::Value::NumberLit(literal) = self.value else {
            return Err(self.wrong_type(&wanted));
        };
        match literal.value.parse() {
            Ok(number) if (min..=max).contains(&number) => Ok(number),
            _ => Err(self.bad(
                format!("{} is not accepted here", literal.value),
                format!("give {wanted}"),
            )),
        }
    }

    pub(crate) fn elements(&self) -> Result<Vec<Value<'a, 't>>> {
        let ast::Value::Array(array) = self.value else {
            return Err(self.wrong_type("a list"));
        };
        let element = |(number, value)| Value {
            source: self.source,
            key: format!("{}[{number}]", self.key),
            value,
        };
        Ok(array.elements.iter().enumerate().map(element).collect())
    }

    /// The object, after looking for repeated keys.
    pub(crate) fn object(&self) -> Result<Object<'a, 't>> {
        let ast::Value::Object(object) = self.value else {
            return Err(self.wrong_type("an object"));
        };
        for (number, property) in object.properties.iter().enumerate() {
            let name = property.name.as_str();
            let same = |earlier: &&ast::ObjectProp<'_>| earlier.name.as_str() == name;
            if let Some(earlier) = object.properties[..number].iter().find(same) {
                let first = self.source.position(earlier.range.start);
                return Err(self.source.error(
                    property.range.start,
                    &join(&self.key, name),
                    format!(
                        "it already stands at line {}, column {}",
                        first.line, first.column
                    ),
                    "remove one of the two",
                ));
            }
        }
        Ok(Object {
            source: self.source,
            key: self.key.clone(),
            object,
            known: Vec::new(),
        })
    }
}

/// An object whose keys are asked for one by one; `finish` then refuses the others.
pub(crate) struct Object<'a, 't> {
    source: Source<'a>,
    key: String,
    object: &'t ast::Object<'a>,
    known: Vec<&'static str>,
}

impl<'a, 't> Object<'a, 't> {
    /// The value of `name`; `null` is the same as absent, as it was in Verneuil 0.6.
    pub(crate) fn optional(&mut self, name: &'static str) -> Option<Value<'a, 't>> {
        self.known.push(name);
        let property = self.object.get(name)?;
        if property.value.as_null_keyword().is_some() {
            return None;
        }
        Some(Value {
            source: self.source,
            key: join(&self.key, name),
            value: &property.value,
        })
    }

    pub(crate) fn required(&mut self, name: &'static str) -> Result<Value<'a, 't>> {
        self.optional(name).ok_or_else(|| {
            self.source.error(
                self.object.range.start,
                &join(&self.key, name),
                "it is missing from the object that begins here",
                "add it",
            )
        })
    }

    /// The only key of an object that selects one of several kinds by it.
    pub(crate) fn only_key(&self, kinds: &str) -> Result<&'t str> {
        match &self.object.properties[..] {
            [property] => Ok(property.name.as_str()),
            properties => Err(self.source.error(
                self.object.range.start,
                &self.key,
                format!("the object has {} keys instead of one", properties.len()),
                format!("give one of {kinds}"),
            )),
        }
    }

    /// The error that `name`, of which there is one, is not acceptable.
    pub(crate) fn bad_key(
        &self,
        name: &str,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> ConfigError {
        let property = self.object.get(name);
        let start = property.map_or(self.object.range.start, |property| property.range.start);
        self.source
            .error(start, &join(&self.key, name), problem, remedy)
    }

    /// Refuses every key that was not asked for; those in `planned` with the word that they are not
    /// supported yet, so that nobody looks for a misspelling.
    pub(crate) fn finish(self, planned: &[&str]) -> Result<()> {
        let unread =
            |property: &&ast::ObjectProp<'_>| !self.known.contains(&property.name.as_str());
        let Some(property) = self.object.properties.iter().find(unread) else {
            return Ok(());
        };
        let name = property.name.as_str();
        let (problem, remedy) = if planned.contains(&name) {
            (
                "this key is not supported yet".to_owned(),
                "remove it".to_owned(),
            )
        } else {
            (
                "there is no such key".to_owned(),
                format!("remove it, or use one of: {}", self.known.join(", ")),
            )
        };
        Err(self.bad_key(name, problem, remedy))
    }
}

fn join(parent: &str, name: &str) -> String {
    if parent.is_empty() {
        name.to_owned()
    } else {
        format!("{parent}.{name}")
    }
}
