//! Which pages of other sites may talk to this node: what browsers ask for before they let them.

/// The origins of such pages. The default: none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origins {
    /// All.
    Any,
    /// These.
    These(Vec<String>),
}

impl Default for Origins {
    fn default() -> Self {
        Self::These(Vec::new())
    }
}

impl Origins {
    /// Reads `*`, or origins with commas between them, as `https://jobs.example.com`.
    ///
    /// # Errors
    ///
    /// What is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        let entries: Vec<String> = entries.map(str::to_ascii_lowercase).collect();
        if entries == ["*"] {
            return Ok(Self::Any);
        }
        match entries.iter().find(|entry| !is_origin(entry)) {
            Some(entry) => Err(format!(
                "{entry:?} is no origin: give * alone, or origins without a path, as \
                 https://jobs.example.com,http://localhost:5173"
            )),
            None => Ok(Self::These(entries)),
        }
    }

    /// Whether a page of this origin may talk to the node.
    pub fn allow(&self, origin: &str) -> bool {
        match self {
            Self::Any => true,
            Self::These(origins) => origins.iter().any(|known| known.eq_ignore_ascii_case(origin)),
        }
    }
}

fn is_origin(text: &str) -> bool {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
    host.is_some_and(|host| !host.is_empty() && host.bytes().all(is_plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_origins_that_are_named_are_allowed() {
        assert!(!Origins::default().allow("https://a.example"));
        assert!(Origins::parse("*").unwrap().allow("null"));
        let some = Origins::parse("https://a.example, http://localhost:5173").unwrap();
        assert!(some.allow("https://A.example") && some.allow("http://localhost:5173"));
        for other in ["http://a.example", "https://a.example.evil", "https://b", "null", ""] {
            assert!(!some.allow(other), "{other}");
        }
    }

    #[test]
    fn what_is_no_origin_is_refused() {
        for bad in ["a.example", "https://", "https://a/", "https://a/b", "*,https://a", "null"] {
            assert!(Origins::parse(bad).is_err(), "{bad}");
        }
    }
}
