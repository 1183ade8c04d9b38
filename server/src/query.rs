//! Query strings, strictly: a parameter that is unknown or comes twice is an error, not a surprise.

use std::ops::RangeInclusive;

use axum::http::Uri;

use crate::percent;
use crate::problem::{Kind, Problem};

/// The parameters of a request: percent-decoded bytes. A plus is a plus.
pub(crate) struct Query(Vec<(&'static str, Vec<u8>)>);

impl Query {
    /// The query of `uri`, which may have the parameters in `known`, each at most once.
    pub(crate) fn parse(uri: &Uri, known: &[&'static str]) -> Result<Self, Problem> {
        let invalid = |detail: String| Problem::new(Kind::InvalidQuery, detail);
        let mut parameters = Vec::new();
        for pair in uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let Some(name) = known.iter().find(|known| **known == name) else {
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                return Err(invalid(format!("there is no parameter {name:?} here; the known ones: {known}")));
            };
            if parameters.iter().any(|(seen, _)| seen == name) {
                return Err(invalid(format!("the parameter {name} is there twice")));
            }
            let value = percent::decode(value).map_err(|error| invalid(format!("{name}: {error}")))?;
            parameters.push((*name, value));
        }
        Ok(Self(parameters))
    }

    /// The value of a parameter, if there.
    pub(crate) fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find(|(seen, _)| *seen == name).map(|(_, value)| value.as_slice())
    }

    /// The value of a parameter that is a decimal number in `range`, if there.
    pub(crate) fn number(&self, name: &str, range: RangeInclusive<usize>) -> Result<Option<usize>, Problem> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let digits = std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        match digits.and_then(|digits| digits.parse().ok()).filter(|number| range.contains(number)) {
            Some(number) => Ok(Some(number)),
            None => {
                let detail = format!("{name} is a number from {} to {}", range.start(), range.end());
                Err(Problem::new(Kind::InvalidQuery, detail))
            }
        }
    }
}
