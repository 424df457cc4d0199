//! Trees of lines, and their text, with colours or without. Pure.

/// How a piece of text is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    Plain,
    /// The name of something.
    Name,
    /// As it should be.
    Good,
    /// Somebody should look.
    Bad,
    /// Under way.
    Waiting,
}

impl Tone {
    fn code(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Name => Some("1"),
            Self::Good => Some("32"),
            Self::Bad => Some("31"),
            Self::Waiting => Some("33"),
        }
    }
}

/// A line with what belongs below it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Node {
    pieces: Vec<(Tone, String)>,
    below: Vec<Node>,
}

impl Node {
    /// A line that begins with this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self::default().and(Tone::Plain, text)
    }

    /// A line that begins with the name of an object.
    pub fn object(kind: &str, name: &str) -> Self {
        Self::default().and(Tone::Name, format!("{kind} {name}"))
    }

    /// The line goes on. Text from the cluster can't steer the terminal: control characters are left out.
    pub fn and(mut self, tone: Tone, text: impl Into<String>) -> Self {
        let text: String =
            text.into().chars().map(|c| if c.is_whitespace() { ' ' } else { c }).filter(|c| !c.is_control()).collect();
        if !text.is_empty() {
            self.pieces.push((tone, text));
        }
        self
    }

    /// Puts a line below.
    pub fn put(&mut self, node: Self) {
        self.below.push(node);
    }

    /// The tree as text, a line each.
    pub fn text(&self, colours: bool) -> String {
        let mut text = String::new();
        self.write(&mut text, "", "", colours);
        text
    }

    fn write(&self, text: &mut String, first: &str, others: &str, colours: bool) {
        text.push_str(first);
        for (at, (tone, piece)) in self.pieces.iter().enumerate() {
            if at > 0 {
                text.push_str("  ");
            }
            match tone.code().filter(|_| colours) {
                Some(code) => text.push_str(&format!("\u{1b}[{code}m{piece}\u{1b}[0m")),
                None => text.push_str(piece),
            }
        }
        text.push('\n');
        for (at, node) in self.below.iter().enumerate() {
            let is_last = at + 1 == self.below.len();
            let (branch, below) = if is_last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            node.write(text, &format!("{others}{branch}"), &format!("{others}{below}"), colours);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Node {
        let mut root = Node::object("Dataset", "tx").and(Tone::Good, "Ready");
        let mut first = Node::new("first");
        first.put(Node::new("below"));
        root.put(first);
        root.put(Node::new("last").and(Tone::Bad, ""));
        root
    }

    #[test]
    fn lines_hang_below_the_line_they_belong_to() {
        assert_eq!(tree().text(false), "Dataset tx  Ready\n├─ first\n│  └─ below\n└─ last\n");
    }

    #[test]
    fn colours_come_only_where_asked_for() {
        assert!(tree().text(true).starts_with("\u{1b}[1mDataset tx\u{1b}[0m  \u{1b}[32mReady\u{1b}[0m\n"));
    }

    #[test]
    fn text_from_the_cluster_can_not_steer_the_terminal() {
        assert_eq!(Node::new("a\u{1b}[2J\nb").text(false), "a[2J b\n");
    }
}
