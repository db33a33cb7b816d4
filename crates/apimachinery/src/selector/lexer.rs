//! Tokens of label selectors (apimachinery `pkg/labels/selector.go`, `Lexer`).

/// What a piece of a selector is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    End,
    Open,
    Close,
    Comma,
    Not,
    Equals,
    DoubleEquals,
    NotEquals,
    Greater,
    Less,
    In,
    NotIn,
    Identifier,
    Error,
}

/// A token and its text.
pub(super) type Item<'a> = (Token, &'a str);

/// All tokens of `text`; the last is always `End`.
pub(super) fn lex(text: &str) -> Vec<Item<'_>> {
    let mut items = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', '\r', '\n']);
        if rest.is_empty() {
            items.push((Token::End, ""));
            return items;
        }
        let (token, len) = if rest.starts_with(is_special) {
            special(rest)
        } else {
            word(rest)
        };
        items.push((token, &rest[..len]));
        rest = &rest[len..];
    }
}

fn is_special(c: char) -> bool {
    matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<')
}

/// The longest operator at the start; one always matches, since each special character is one or, for `!`,
/// stands alone.
fn special(text: &str) -> (Token, usize) {
    const OPERATORS: &[(&str, Token)] = &[
        ("==", Token::DoubleEquals),
        ("!=", Token::NotEquals),
        ("=", Token::Equals),
        ("!", Token::Not),
        ("(", Token::Open),
        (")", Token::Close),
        (",", Token::Comma),
        (">", Token::Greater),
        ("<", Token::Less),
    ];
    OPERATORS
        .iter()
        .find(|(operator, _)| text.starts_with(operator))
        .map_or((Token::Error, 1), |(operator, token)| (*token, operator.len()))
}

fn word(text: &str) -> (Token, usize) {
    let end = text
        .find(|c: char| is_special(c) || matches!(c, ' ' | '\t' | '\r' | '\n'))
        .unwrap_or(text.len());
    let token = match &text[..end] {
        "in" => Token::In,
        "notin" => Token::NotIn,
        _ => Token::Identifier,
    };
    (token, end)
}
