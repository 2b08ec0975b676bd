//! Markdown as man(7), of what our documents use.

use pulldown_cmark::{Event, HeadingLevel, Options, Parser, Tag, TagEnd};

/// Converts `markdown`. Headings of `level` and above begin a section, those below a subsection.
pub(super) fn from_markdown(markdown: &str, level: usize) -> String {
    let mut page = Page {
        level,
        ..Page::default()
    };
    for event in Parser::new_ext(markdown, Options::ENABLE_TABLES) {
        page.take(event);
    }
    page.out
}

/// Lines as they are, indented, in a fixed width.
pub(super) fn verbatim(text: &str) -> String {
    let text = escape(text.trim_matches('\n'));
    format!(".PP\n.RS 4\n.nf\n{}\n.fi\n.RE\n", guarded(&text))
}

/// Leaves out requests that change nothing, which mandoc(1) warns about: of paragraphs at the begin of a section,
/// and of new lines beside others.
pub(super) fn tidy(page: &str) -> String {
    let mut out: Vec<&str> = Vec::new();
    let mut is_verbatim = false;
    for line in page.lines() {
        let before = out.last().copied().unwrap_or_default();
        let is_begin = before.starts_with(".SH") || before.starts_with(".SS");
        match line {
            ".nf" | ".fi" => is_verbatim = line == ".nf",
            ".PP" if is_begin => continue,
            ".br" if before == ".br" => continue,
            "" if !is_verbatim => continue,
            _ => {}
        }
        out.push(line);
    }
    out.join("\n") + "\n"
}

/// Text without any meaning to roff within a line.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\e"),
            // A hyphen is typeset as another character; what is typed should be found by a search, and copied.
            '-' => out.push_str("\\-"),
            // Characters that typesetting makes look nice, as people who copy commands do not want them.
            '\'' => out.push_str("\\(aq"),
            '`' => out.push_str("\\(ga"),
            '^' => out.push_str("\\(ha"),
            '~' => out.push_str("\\(ti"),
            c if c.is_ascii() => out.push(c),
            c => out.push_str(&format!("\\[u{:04X}]", u32::from(c))),
        }
    }
    out
}

/// Escaped text as the lines of a page: none begins with a dot, which is a request.
fn guarded(text: &str) -> String {
    let guard = |line: &str| match line.starts_with('.') {
        true => format!("\\&{line}"),
        false => line.to_owned(),
    };
    text.lines().map(guard).collect::<Vec<_>>().join("\n")
}

/// A section's or subsection's heading.
pub(super) fn heading(request: &str, text: &str) -> String {
    format!(".{request} \"{}\"\n", escape(text).replace('"', "\\(dq"))
}

/// A list that is open.
struct List {
    /// The next number, if it has numbers.
    next: Option<u64>,
}

#[derive(Default)]
struct Page {
    out: String,
    /// The present paragraph, heading, item or cell.
    text: String,
    level: usize,
    lists: Vec<List>,
    /// Whether a list item has begun whose first paragraph is not written.
    begun: bool,
    /// The heads of the present table, and the cells of its present row.
    heads: Vec<String>,
    cells: Vec<String>,
}

impl Page {
    fn take(&mut self, event: Event) {
        match event {
            Event::Start(tag) => self.start(&tag),
            Event::End(tag) => self.end(tag),
            Event::Text(text) => self.text.push_str(&escape(&text)),
            Event::Code(code) => self.text.push_str(&format!("\\fB{}\\fR", escape(&code))),
            Event::SoftBreak => self.text.push('\n'),
            Event::HardBreak => self.text.push_str("\n.br\n"),
            _ => {}
        }
    }

    fn start(&mut self, tag: &Tag) {
        match tag {
            Tag::Strong => self.text.push_str("\\fB"),
            Tag::Emphasis => self.text.push_str("\\fI"),
            Tag::List(next) => {
                self.paragraph();
                if !self.lists.is_empty() {
                    self.out.push_str(".RS 4\n");
                }
                self.lists.push(List { next: *next });
            }
            Tag::Item => {
                let mark = match self.lists.last_mut().and_then(|list| list.next.as_mut()) {
                    Some(next) => {
                        *next += 1;
                        format!("{}. 4", *next - 1)
                    }
                    None => "\\(bu 2".to_owned(),
                };
                self.out.push_str(&format!(".IP {mark}\n"));
                self.begun = true;
            }
            // What an item has before a block of code.
            Tag::CodeBlock(_) => self.paragraph(),
            Tag::Table(_) => self.heads.clear(),
            _ => {}
        }
    }

    fn end(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::Strong | TagEnd::Emphasis => self.text.push_str("\\fR"),
            TagEnd::Heading(level) => self.heading(level),
            TagEnd::Paragraph | TagEnd::Item => self.paragraph(),
            TagEnd::List(_) => {
                self.lists.pop();
                if !self.lists.is_empty() {
                    self.out.push_str(".RE\n");
                }
            }
            TagEnd::CodeBlock => {
                let text = std::mem::take(&mut self.text);
                let text = guarded(text.trim_matches('\n'));
                self.out
                    .push_str(&format!(".PP\n.RS 4\n.nf\n{text}\n.fi\n.RE\n"));
                self.begun = false;
            }
            TagEnd::TableCell => self.cells.push(std::mem::take(&mut self.text)),
            TagEnd::TableHead => self.heads = std::mem::take(&mut self.cells),
            TagEnd::TableRow => self.row(),
            _ => {}
        }
    }

    fn heading(&mut self, level: HeadingLevel) {
        let text = std::mem::take(&mut self.text);
        let text = text.replace("\\fB", "").replace("\\fR", "");
        // It is escaped already.
        let (request, text) = match level as usize <= self.level {
            true => ("SH", text.to_uppercase()),
            false => ("SS", text),
        };
        self.out.push_str(&format!(".{request} \"{text}\"\n"));
    }

    /// Writes the present text, if there is any.
    fn paragraph(&mut self) {
        let text = std::mem::take(&mut self.text);
        if text.trim().is_empty() {
            return;
        }
        if !std::mem::take(&mut self.begun) {
            let request = if self.lists.is_empty() { ".PP" } else { ".IP" };
            self.out.push_str(request);
            self.out.push('\n');
        }
        self.out.push_str(&guarded(text.trim()));
        self.out.push('\n');
    }

    /// A row is an entry: the first cell, and below it the others, from the third on with their heads.
    fn row(&mut self) {
        let mut cells = std::mem::take(&mut self.cells).into_iter();
        let tag = cells.next().filter(|tag| !tag.is_empty());
        self.out
            .push_str(&format!(".TP\n{}\n", tag.as_deref().unwrap_or("\\(bu")));
        for (i, cell) in cells.enumerate().filter(|(_, cell)| !cell.is_empty()) {
            let head = self
                .heads
                .get(i + 1)
                .map(String::as_str)
                .unwrap_or_default();
            match i {
                0 => self.out.push_str(&guarded(&cell)),
                _ if head.is_empty() => self.out.push_str(&format!(".br\n{}", guarded(&cell))),
                _ => self.out.push_str(&format!(".br\n({head}: {cell})")),
            }
            self.out.push('\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(markdown: &str, expected: &str) {
        assert_eq!(from_markdown(markdown, 2), expected, "{markdown}");
    }

    #[test]
    fn what_the_documents_use() {
        check("## A b\ntext", ".SH \"A B\"\n.PP\ntext\n");
        check("### A `b`\n", ".SS \"A b\"\n");
        check(".a\n.b", ".PP\n\\&.a\n\\&.b\n");
        check(
            "a `b-c` **d** [e](#f)",
            ".PP\na \\fBb\\-c\\fR \\fBd\\fR e\n",
        );
        check("- a\n- b\n", ".IP \\(bu 2\na\n.IP \\(bu 2\nb\n");
        check("1. a\n2. b\n", ".IP 1. 4\na\n.IP 2. 4\nb\n");
        check(
            "- a\n\n      .b\\\n",
            ".IP \\(bu 2\na\n.PP\n.RS 4\n.nf\n\\&.b\\e\n.fi\n.RE\n",
        );
        check(
            "| k | v | d |\n|---|---|---|\n| `a` | b | c |\n",
            ".TP\n\\fBa\\fR\nb\n.br\n(d: c)\n",
        );
    }

    #[test]
    fn what_has_a_meaning_to_roff_loses_it() {
        assert_eq!(escape("a\\n'x'\u{2192}"), "a\\en\\(aqx\\(aq\\[u2192]");
        assert_eq!(verbatim(".x\n"), ".PP\n.RS 4\n.nf\n\\&.x\n.fi\n.RE\n");
        assert_eq!(heading("SH", "a \"b\""), ".SH \"a \\(dqb\\(dq\"\n");
    }
}
