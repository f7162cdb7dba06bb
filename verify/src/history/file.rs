//! A history in a file.
//!
//! ```text
//!   "batonqhs"  version     then any number of records
//!   8 bytes     1 byte      length: u16, little endian │ the record, as postcard writes it
//! ```
//!
//! Records are written as they come. Who writes may be killed at any time: the file is then good
//! up to the last record that is whole, and its reader says that it was cut off.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, ErrorKind, Read, Write};
use std::path::Path;

use super::{History, Record};

const MAGIC: [u8; 8] = *b"batonqhs";

/// Rises with every change of [`Record`].
const VERSION: u8 = 2;

/// A record has no more bytes. The longest have names that others chose, of 200 bytes at most.
const RECORD_BYTES_MAX: usize = 4096;

/// Why a history can not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file can not be used.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The file does not begin as a history.
    #[error("not a history")]
    NotAHistory,
    /// The file is of another version of this program.
    #[error("history of version {found}, and this program reads version {VERSION}")]
    OtherVersion {
        /// The version of the file.
        found: u8,
    },
    /// What stands there is no record.
    #[error("no record at byte {offset}: {reason}")]
    Garbage {
        /// Where it should begin.
        offset: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// A record has texts that are too long.
    #[error("record longer than {RECORD_BYTES_MAX} bytes")]
    TooLong,
}

/// Writes a history.
#[derive(Debug)]
pub struct Writer<W: Write> {
    to: BufWriter<W>,
    record: Vec<u8>,
}

impl Writer<File> {
    /// Begins a new file, in place of one that is there.
    ///
    /// # Errors
    ///
    /// [`FileError::Io`].
    pub fn create(path: &Path) -> Result<Self, FileError> {
        Self::new(File::create(path)?)
    }
}

impl<W: Write> Writer<W> {
    /// Begins a history.
    ///
    /// # Errors
    ///
    /// [`FileError::Io`].
    pub fn new(to: W) -> Result<Self, FileError> {
        let mut to = BufWriter::new(to);
        to.write_all(&MAGIC)?;
        to.write_all(&[VERSION])?;
        Ok(Self { to, record: vec![0; RECORD_BYTES_MAX] })
    }

    /// Adds a record. It may stay in memory for a while.
    ///
    /// # Errors
    ///
    /// [`FileError::TooLong`], with nothing written, or [`FileError::Io`].
    pub fn write(&mut self, record: &Record) -> Result<(), FileError> {
        let bytes = postcard::to_slice(record, &mut self.record).map_err(|_| FileError::TooLong)?;
        let length = u16::try_from(bytes.len()).map_err(|_| FileError::TooLong)?;
        self.to.write_all(&length.to_le_bytes())?;
        self.to.write_all(bytes)?;
        Ok(())
    }

    /// Hands over to the system what is still in memory: what was written outlives this process.
    ///
    /// # Errors
    ///
    /// [`FileError::Io`].
    pub fn flush(&mut self) -> Result<(), FileError> {
        Ok(self.to.flush()?)
    }
}

/// Reads a history, record by record.
#[derive(Debug)]
pub struct Reader<R: Read> {
    from: BufReader<R>,
    record: Vec<u8>,
    offset: u64,
    is_cut: bool,
}

impl Reader<File> {
    /// Opens a file.
    ///
    /// # Errors
    ///
    /// As [`Reader::new`].
    pub fn open(path: &Path) -> Result<Self, FileError> {
        Self::new(File::open(path)?)
    }
}

impl<R: Read> Reader<R> {
    /// Reads the head.
    ///
    /// # Errors
    ///
    /// [`FileError::NotAHistory`], [`FileError::OtherVersion`] or [`FileError::Io`].
    pub fn new(from: R) -> Result<Self, FileError> {
        let mut from = BufReader::new(from);
        let mut head = [0; MAGIC.len() + 1];
        match from.read_exact(&mut head) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                return Err(FileError::NotAHistory);
            }
            read => read?,
        }
        let [magic @ .., found] = head;
        if magic != MAGIC {
            return Err(FileError::NotAHistory);
        }
        if found != VERSION {
            return Err(FileError::OtherVersion { found });
        }
        Ok(Self { from, record: Vec::new(), offset: head.len() as u64, is_cut: false })
    }

    /// Whether the last record was cut off. Known once all have been read.
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// The next record. `None`: there are no more that are whole.
    fn read(&mut self) -> Result<Option<Record>, FileError> {
        if self.from.fill_buf()?.is_empty() {
            return Ok(None);
        }
        let mut length = [0; 2];
        if !self.fill(&mut length)? {
            return Ok(None);
        }
        let length = usize::from(u16::from_le_bytes(length));
        if !(1..=RECORD_BYTES_MAX).contains(&length) {
            return Err(self.garbage(format!("length {length}")));
        }
        let mut bytes = std::mem::take(&mut self.record);
        bytes.resize(length, 0);
        let is_whole = self.fill(&mut bytes)?;
        self.record = bytes;
        if !is_whole {
            return Ok(None);
        }
        let record = match postcard::take_from_bytes(&self.record) {
            Ok((record, [])) => record,
            Ok((_, rest)) => return Err(self.garbage(format!("{} bytes too many", rest.len()))),
            Err(error) => return Err(self.garbage(error.to_string())),
        };
        self.offset += 2 + length as u64;
        Ok(Some(record))
    }

    /// False: the file ends before that.
    fn fill(&mut self, bytes: &mut [u8]) -> Result<bool, FileError> {
        match self.from.read_exact(bytes) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                self.is_cut = true;
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn garbage(&self, reason: String) -> FileError {
        FileError::Garbage { offset: self.offset, reason }
    }
}

impl<R: Read> Iterator for Reader<R> {
    type Item = Result<Record, FileError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

impl History {
    /// Reads a history to its end, or to where it was cut off.
    ///
    /// # Errors
    ///
    /// As [`Reader::new`], and [`FileError::Garbage`].
    pub fn read(from: impl Read) -> Result<Self, FileError> {
        let mut reader = Reader::new(from)?;
        let records = reader.by_ref().collect::<Result<_, _>>()?;
        Ok(Self { records, is_cut: reader.is_cut() })
    }

    /// As [`History::read`], of a file.
    ///
    /// # Errors
    ///
    /// The same.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        Self::read(File::open(path)?)
    }
}

#[cfg(test)]
mod tests;
