//! Which keys a configuration has and what their values must be, read through `reader`.
use crate::{Config, ConfigError};
pub(crate) fn read_config(_text: &str, _origin: &str) -> Result<Config, ConfigError> {
    Ok(Config::default())
}
