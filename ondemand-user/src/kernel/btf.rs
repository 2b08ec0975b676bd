//! Offsets of struct members in the running kernel, from its BTF
//! (Documentation/bpf/btf.rst). aya relocates what Clang recorded, but rustc records
//! no relocations, and aya's own BTF types do not expose offsets.

use std::{collections::HashMap, path::Path};

use anyhow::{Context as _, Result, ensure};

/// The running kernel's own types.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u32 = 0xeb9f;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
/// Sizes of `struct btf_type` and of one `struct btf_member`.
const TYPE_LEN: usize = 12;

/// The type information of a kernel.
pub struct KernelTypes {
    data: Vec<u8>,
    strings: usize,
    /// Offset of type `i + 1` in `data`.
    types: Vec<usize>,
    structs: HashMap<String, usize>,
}

impl KernelTypes {
    /// Reads the BTF of the running kernel.
    ///
    /// # Errors
    ///
    /// There is no BTF (`CONFIG_DEBUG_INFO_BTF` is off), or it cannot be read.
    pub fn running() -> Result<Self> {
        let path = Path::new(VMLINUX);
        let data = std::fs::read(path).with_context(|| {
            format!(
                "read {}: the kernel must be built with CONFIG_DEBUG_INFO_BTF=y, \
                 as distributions' kernels are",
                path.display()
            )
        })?;
        Self::parse(data).with_context(|| format!("parse {}", path.display()))
    }

    fn parse(data: Vec<u8>) -> Result<Self> {
        ensure!(word(&data, 0)? & 0xffff == MAGIC, "no BTF magic");
        let header = word(&data, 4)? as usize;
        let mut offset = header + word(&data, 8)? as usize;
        let end = offset + word(&data, 12)? as usize;
        let strings = header + word(&data, 16)? as usize;
        let mut this = Self {
            data,
            strings,
            types: Vec::new(),
            structs: HashMap::new(),
        };
        while offset < end {
            let info = word(&this.data, offset + 4)?;
            let (kind, members) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
            let payload = match kind {
                1 | 14 | 17 => 4,                                   // INT, VAR, DECL_TAG
                3 => 12,                                            // ARRAY
                KIND_STRUCT | KIND_UNION | 15 | 19 => members * 12, // DATASEC, ENUM64
                6 | 13 => members * 8,                              // ENUM, FUNC_PROTO
                2 | 7..=12 | 16 | 18 => 0,
                other => anyhow::bail!("unknown BTF kind {other}"),
            };
            if kind == KIND_STRUCT {
                let name = this.name(word(&this.data, offset)?)?.to_owned();
                this.structs.entry(name).or_insert(offset);
            }
            this.types.push(offset);
            offset += TYPE_LEN + payload;
        }
        Ok(this)
    }

    /// Returns the offset in bytes of `member` in `structure`, also inside its anonymous members.
    ///
    /// # Errors
    ///
    /// This kernel has no such struct or member.
    pub fn offset_of(&self, structure: &str, member: &str) -> Result<u32> {
        let describe = || format!("find {member} of struct {structure} in the kernel's BTF");
        let at = *self.structs.get(structure).with_context(describe)?;
        let bits = self.find(at, member)?.with_context(describe)?;
        Ok(bits / 8)
    }

    /// Returns the offset in bytes of `inner` in `outer`, which is a member of `structure` and a struct without a name.
    ///
    /// # Errors
    ///
    /// This kernel has no such struct or member.
    pub fn offset_within(&self, structure: &str, outer: &str, inner: &str) -> Result<u32> {
        let describe = || format!("find {outer}.{inner} of struct {structure} in the kernel's BTF");
        let at = *self.structs.get(structure).with_context(describe)?;
        let info = word(&self.data, at + 4)?;
        for index in 0..(info & 0xffff) as usize {
            let entry = at + TYPE_LEN + index * TYPE_LEN;
            if self.name(word(&self.data, entry)?)? != outer {
                continue;
            }
            let id = word(&self.data, entry + 4)? as usize;
            let found = *self.types.get(id.wrapping_sub(1)).with_context(describe)?;
            let bits = self.find(found, inner)?.with_context(describe)?;
            return Ok(self.offset_of(structure, outer)? + bits / 8);
        }
        Err(anyhow::anyhow!(describe()))
    }

    fn find(&self, at: usize, member: &str) -> Result<Option<u32>> {
        let info = word(&self.data, at + 4)?;
        let has_bitfields = info >> 31 == 1;
        for index in 0..(info & 0xffff) as usize {
            let entry = at + TYPE_LEN + index * TYPE_LEN;
            let offset = word(&self.data, entry + 8)?;
            let offset = if has_bitfields {
                offset & 0xff_ffff
            } else {
                offset
            };
            let name = self.name(word(&self.data, entry)?)?;
            if name == member {
                return Ok(Some(offset));
            }
            if !name.is_empty() {
                continue;
            }
            let id = word(&self.data, entry + 4)? as usize;
            let inner = *self
                .types
                .get(id.wrapping_sub(1))
                .context("BTF type id out of range")?;
            let kind = word(&self.data, inner + 4)? >> 24 & 0x1f;
            if (kind == KIND_STRUCT || kind == KIND_UNION)
                && let Some(more) = self.find(inner, member)?
            {
                return Ok(Some(offset + more));
            }
        }
        Ok(None)
    }

    fn name(&self, offset: u32) -> Result<&str> {
        let start = self.strings + offset as usize;
        let bytes = self.data.get(start..).context("BTF string out of range")?;
        let len = bytes
            .iter()
            .position(|byte| *byte == 0)
            .context("unterminated BTF string")?;
        std::str::from_utf8(&bytes[..len]).context("BTF string")
    }
}

fn word(data: &[u8], at: usize) -> Result<u32> {
    let bytes = data.get(at..at + 4).context("truncated BTF")?;
    Ok(u32::from_ne_bytes(bytes.try_into()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_members_of_the_running_kernel() {
        let types = KernelTypes::running();
        ::tests::require!(types.as_ref().err());
        let types = types.unwrap();
        // skc_num has followed three 32-bit words since Linux 3.x.
        assert!(types.offset_of("sock_common", "skc_num").unwrap() < 64);
        assert!(types.offset_of("tcp_sock", "write_seq").unwrap() > 0);
        let received = types.offset_within("inet_connection_sock", "icsk_ack", "lrcvtime");
        let ack = types.offset_of("inet_connection_sock", "icsk_ack").unwrap();
        assert!((ack + 4..ack + 64).contains(&received.unwrap()));
        assert!(types.offset_of("tcp_sock", "lsndtime").unwrap() > 0);
        let error = types
            .offset_of("sock_common", "no_such_member")
            .unwrap_err()
            .to_string();
        assert!(error.contains("no_such_member"), "{error}");
    }

    #[test]
    fn broken_type_information_is_an_error() {
        for data in [
            vec![],
            vec![0; 8],
            MAGIC.to_ne_bytes().to_vec(),
            vec![0xff; 64],
        ] {
            assert!(KernelTypes::parse(data).is_err());
        }
    }
}
