//! How settings are declared, and how people read about them. What there is stands in `declared.rs`.
//!
//! The invariant: a table shows defaults, which are the same everywhere, and never what is set.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};

use super::Environment;

/// Makes the struct of all settings, its defaults and its table from one declaration of each.
macro_rules! settings {
    ($($group:literal { $($(#[doc = $line:literal])+ $name:ident: $kind:ty = $default:expr;)+ })+) => {
        /// All settings. Every field is an environment variable of the same name in upper case.
        #[derive(Debug, Clone, serde::Deserialize)]
        #[serde(default)]
        pub struct Settings {
            $($($(#[doc = $line])+ pub $name: $kind,)+)+
        }

        impl Default for Settings {
            fn default() -> Self {
                Self { $($($name: $default,)+)+ }
            }
        }

        impl Settings {
            /// Every setting with its meaning and its default, group by group.
            pub fn table() -> Vec<$crate::settings::Setting> {
                use $crate::settings::table::Shown as _;
                let defaults = Self::default();
                vec![$($($crate::settings::Setting {
                    group: $group,
                    variable: stringify!($name).to_uppercase(),
                    meaning: concat!($($line),+).trim(),
                    default: defaults.$name.shown(),
                },)+)+]
            }
        }
    };
}

pub(super) use settings;

/// A setting, as people read about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Heading that it is listed below.
    pub group: &'static str,
    /// Name of the environment variable, without the prefix.
    pub variable: String,
    /// What it does, with the unit of a number; Markdown.
    pub meaning: &'static str,
    /// What holds while it is not set, if anything does.
    pub default: Option<String>,
}

/// A default, as people would set it; nothing where there is none.
pub(super) trait Shown {
    /// The text.
    fn shown(&self) -> Option<String>;
}

impl<T: Shown> Shown for Option<T> {
    fn shown(&self) -> Option<String> {
        self.as_ref().and_then(Shown::shown)
    }
}

impl Shown for String {
    fn shown(&self) -> Option<String> {
        (!self.is_empty()).then(|| self.clone())
    }
}

impl Shown for SecretString {
    /// What is the default everywhere is no secret.
    fn shown(&self) -> Option<String> {
        self.expose_secret().to_owned().shown()
    }
}

impl Shown for PathBuf {
    fn shown(&self) -> Option<String> {
        self.display().to_string().shown()
    }
}

impl Shown for Environment {
    fn shown(&self) -> Option<String> {
        self.as_str().to_owned().shown()
    }
}

macro_rules! shown_as_text {
    ($($kind:ty),+) => {
        $(impl Shown for $kind {
            fn shown(&self) -> Option<String> {
                self.to_string().shown()
            }
        })+
    };
}

shown_as_text!(bool, u16, u32, u64, i32, i64, usize, IpAddr, SocketAddr);
