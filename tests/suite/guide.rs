//! The handler's guide as its reader follows it: every block of it is written, compiled or run, in
//! order, and what it says of the output is held against the output.

use std::{
    fs,
    path::{Path, PathBuf},
};

use brolly_tests::{
    project::{can_be_built, command, ended},
    root,
    server::Server,
};

/// A block of the guide.
#[derive(Debug, PartialEq)]
pub(super) enum Block {
    /// `rust FILE`, `toml FILE`, or one of another language: a file of the project.
    File(String, String),
    /// `rust`: statements that hold.
    Holds(String),
    /// `sh`: what its reader types.
    Typed(String),
    /// `text`: lines that the commands before it wrote, in this order, among others.
    Written(String),
}

/// Where the part begins that a test of its own follows, for it needs other tools.
const LANGUAGES: &str = "\n## Other languages\n";

fn blocks(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(kind) = line.strip_prefix("```") else { continue };
        let body: String =
            lines.by_ref().take_while(|line| *line != "```").map(|line| format!("{line}\n")).collect();
        blocks.push(match kind.split_once(' ').unwrap_or((kind, "")) {
            ("rust" | "toml" | "js" | "py", file) if !file.is_empty() => Block::File(file.to_owned(), body),
            ("rust", _) => Block::Holds(body),
            ("sh", _) => Block::Typed(body),
            ("text", _) => Block::Written(body),
            _ => panic!("nobody tests the block {kind:?}"),
        });
    }
    blocks
}

/// The guide, and its part on other languages.
fn parts() -> (String, String) {
    let guide = fs::read_to_string(root().join("docs/handlers.md")).unwrap();
    let (first, languages) = guide.split_once(LANGUAGES).unwrap();
    (first.to_owned(), languages.to_owned())
}

/// The blocks of the part on other languages.
pub(super) fn languages() -> Vec<Block> {
    blocks(&parts().1)
}

/// Someone who follows the guide.
pub(super) struct Reader<'a> {
    server: &'a Server,
    dir: PathBuf,
    /// Where the commands have gone.
    place: PathBuf,
    output: String,
    held: String,
}

impl<'a> Reader<'a> {
    /// In a folder, with nothing done yet.
    pub(super) fn new(server: &'a Server, dir: &Path) -> Self {
        let (place, output, held) = (dir.to_owned(), String::new(), String::new());
        Self { server, place, dir: dir.to_owned(), output, held }
    }

    pub(super) fn follow(&mut self, block: Block) {
        match block {
            Block::File(file, text) => fs::write(self.place.join(file), text).unwrap(),
            Block::Holds(code) => self
                .held
                .push_str(&format!("mod m{} {{ #[test] fn holds() {{\n{code}}} }}\n", self.held.len())),
            Block::Typed(commands) => {
                let mut shell = command("sh", &self.place, Some(self.server));
                let place = self.dir.join("place");
                let script = format!("{commands}pwd > '{}'\n", place.display());
                shell.args(["-ec", &format!("exec 2>&1\n{script}")]);
                self.output = ended(shell, 0).0;
                self.place = Path::new(fs::read_to_string(place).unwrap().trim()).to_owned();
            }
            Block::Written(expect) => {
                let mut rest = self.output.as_str();
                for line in expect.lines() {
                    let at = rest.find(line).unwrap_or_else(|| panic!("{line:?} is not in\n{}", self.output));
                    rest = &rest[at + line.len()..];
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_in_the_guide_works() {
    if !can_be_built("the handler's guide") {
        return;
    }
    let (data, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Server::start(data.path()).await;
    let dir = dir.path().canonicalize().unwrap();
    let mut reader = Reader::new(&server, &dir);
    let all = blocks(&parts().0);
    let snippets = all.iter().filter(|block| matches!(block, Block::Holds(_))).count();
    assert!(all.len() > 10 && snippets >= 2, "the blocks are found: {all:#?}");
    for block in all {
        reader.follow(block);
    }
    fs::create_dir(reader.place.join("tests")).unwrap();
    fs::write(reader.place.join("tests/held.rs"), &reader.held).unwrap();
    let mut held = command("cargo", &reader.place, None);
    held.args(["test", "--test", "held"]);
    let (told, _) = ended(held, 0);
    assert!(told.contains(&format!("{snippets} passed; 0 failed")), "{told}");
    assert_eq!(server.terminate().await, Some(0));
}

#[test]
fn blocks_are_told_apart() {
    let text = "a\n```sh\nls\n```\nb\n```rust src/lib.rs\n//! x\n```\n```rust\nassert!(true);\n```\n```text\nok\n```\n";
    let expect = [
        Block::Typed("ls\n".into()),
        Block::File("src/lib.rs".into(), "//! x\n".into()),
        Block::Holds("assert!(true);\n".into()),
        Block::Written("ok\n".into()),
    ];
    assert_eq!(blocks(text), expect);
}
