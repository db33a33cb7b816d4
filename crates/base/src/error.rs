//! One line for a whole error chain.

use std::error::Error;
use std::fmt;

/// Displays an error followed by each of its causes, separated by `: `.
///
/// Our errors print their own level only, so that a chain never says a thing twice.
///
/// ```
/// let cause = std::io::Error::other("disk on fire");
/// assert_eq!(setpoint_base::Chain(&cause).to_string(), "disk on fire");
/// ```
pub struct Chain<'a>(pub &'a (dyn Error + 'a));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Outer(std::io::Error);
    impl fmt::Display for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("open segment 7")
        }
    }
    impl Error for Outer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn a_chain_prints_each_level_once() {
        let error = Outer(std::io::Error::other("permission denied"));
        assert_eq!(Chain(&error).to_string(), "open segment 7: permission denied");
    }
}
