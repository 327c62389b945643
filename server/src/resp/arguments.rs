//! The arguments of one command, where they arrived.

/// Where an argument is: begin and end in the buffer.
pub type Span = (u32, u32);

/// A command's name and arguments, viewed in the buffer that they arrived in. The name is argument 0.
#[derive(Clone, Copy, Debug)]
pub struct Arguments<'a> {
    buffer: &'a [u8],
    spans: &'a [Span],
}

impl<'a> Arguments<'a> {
    /// The pieces of `buffer` at `spans`.
    #[inline]
    pub fn new(buffer: &'a [u8], spans: &'a [Span]) -> Arguments<'a> {
        Arguments { buffer, spans }
    }

    /// Number of arguments, the command's name included.
    #[inline]
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there is not even a name.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// One argument.
    ///
    /// # Panics
    ///
    /// If there are not so many.
    #[inline]
    pub fn get(&self, index: usize) -> &'a [u8] {
        let (begin, end) = self.spans[index];
        &self.buffer[begin as usize..end as usize]
    }

    /// One argument, if there are so many.
    #[inline]
    pub fn find(&self, index: usize) -> Option<&'a [u8]> {
        self.spans.get(index).map(|&(begin, end)| &self.buffer[begin as usize..end as usize])
    }

    /// Whether an argument is `word`, in whatever case. `word` is in lower case.
    #[inline]
    pub fn is(&self, index: usize, word: &str) -> bool {
        self.find(index).is_some_and(|argument| argument.eq_ignore_ascii_case(word.as_bytes()))
    }

    /// All arguments, the name first.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + use<'a> {
        let (buffer, spans) = (self.buffer, self.spans);
        spans.iter().map(move |&(begin, end)| &buffer[begin as usize..end as usize])
    }

    /// The arguments from `first` on.
    ///
    /// # Panics
    ///
    /// If there are not so many.
    pub fn from(&self, first: usize) -> Arguments<'a> {
        Arguments { buffer: self.buffer, spans: &self.spans[first..] }
    }
}
