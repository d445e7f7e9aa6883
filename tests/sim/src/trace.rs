//! What happened, line by line: two lives of one seed must have the same.

/// The story of a life.
#[derive(Default)]
pub(crate) struct Trace {
    lines: Vec<String>,
}

impl Trace {
    pub(crate) fn say(&mut self, depth: u32, line: impl FnOnce() -> String) {
        let indent = depth as usize * 2;
        self.lines.push(format!("{:indent$}{}", "", line()));
    }

    pub(crate) fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.lines)
    }
}
