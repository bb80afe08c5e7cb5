//! The few bpf(2) calls that aya 0.14 does not offer: links that are updated in place, pins opened read-only, an
//! iterator over one map, batched reading, program details, who is attached to a device.
//!
//! Every attribute struct is the beginning of the kernel's `union bpf_attr` for its command (linux/bpf.h); the kernel
//! takes the rest as zero. Must not know what the objects are for.

use std::{
    ffi::CString,
    fs::File,
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use aya_obj::generated::{bpf_map_type, bpf_prog_info};

/// Commands of bpf(2), `enum bpf_cmd`.
#[derive(Clone, Copy)]
#[repr(i32)]
pub(crate) enum Command {
    MapCreate = 0,
    ElementLookup = 1,
    ElementUpdate = 2,
    ElementDelete = 3,
    NextKey = 4,
    ObjectPin = 6,
    ObjectGet = 7,
    ProgramById = 13,
    InfoByFd = 15,
    ProgramQuery = 16,
    LookupBatch = 24,
    LinkCreate = 28,
    LinkUpdate = 29,
    IteratorCreate = 33,
}

/// `enum bpf_link_type`: a program on a cgroup.
pub const LINK_TYPE_CGROUP: u32 = 3;
/// `enum bpf_link_type`: a program on a network device.
pub const LINK_TYPE_TCX: u32 = 11;
/// `enum bpf_attach_type`: an iterator.
const ATTACH_ITERATOR: u32 = 28;
/// `BPF_F_RDONLY`: the descriptor only reads the map.
const READ_ONLY: u32 = 1 << 3;

/// `BPF_F_NO_PREALLOC`, without which no trie is made.
const NO_PREALLOC: u32 = 1;

/// How a pinned object is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To read and write a map, or any access to a link.
    Full,
    /// To read a map.
    Read,
}

#[repr(C)]
struct MapCreateAttr {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
}

#[repr(C)]
struct ObjectAttr {
    pathname: u64,
    fd: u32,
    file_flags: u32,
}

#[repr(C)]
struct LinkCreateAttr {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
    iterator_info: u64,
    iterator_info_len: u32,
    padding: u32,
}

#[repr(C)]
struct LinkUpdateAttr {
    link: u32,
    new_program: u32,
    flags: u32,
    old_program: u32,
}

#[repr(C)]
pub(crate) struct InfoAttr {
    fd: u32,
    len: u32,
    info: u64,
}

#[repr(C)]
struct IdAttr {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

#[repr(C)]
struct IteratorAttr {
    link: u32,
    flags: u32,
}

#[repr(C)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

/// The part of `union bpf_attr` for `BPF_PROG_QUERY`.
#[repr(C)]
#[derive(Default)]
struct QueryAttr {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    program_ids: u64,
    count: u32,
    padding: u32,
    program_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// The beginning of `struct bpf_link_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct LinkInfo {
    /// `enum bpf_link_type`.
    pub kind: u32,
    /// The kernel's id of the link.
    pub id: u32,
    /// The kernel's id of the program.
    pub program_id: u32,
    /// Not used.
    pub padding: u32,
    /// A union by `kind`: for a cgroup its id as 64 bits, 0 when it is gone, and the `enum bpf_attach_type`; for a
    /// device its index, 0 when it is gone, and the `enum bpf_attach_type`.
    pub target: [u32; 4],
}

impl LinkInfo {
    /// Id of the cgroup and attach type; `None` for a link of another kind.
    pub fn cgroup(&self) -> Option<(u64, u32)> {
        let [low, high, attach_type, _] = self.target;
        (self.kind == LINK_TYPE_CGROUP).then(|| (u64::from(low) | u64::from(high) << 32, attach_type))
    }

    /// Index of the device and attach type; `None` for a link of another kind.
    pub fn device(&self) -> Option<(u32, u32)> {
        let [index, attach_type, ..] = self.target;
        (self.kind == LINK_TYPE_TCX).then_some((index, attach_type))
    }
}

/// # Safety
/// `attr` must be the beginning of the kernel's attribute for `command`, and every address in it must be valid for
/// what the command does with it.
pub(crate) unsafe fn bpf<T>(command: Command, attr: &mut T) -> io::Result<i64> {
    // SAFETY: the caller vouches for the attribute; its size is passed along.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command as i32, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// # Safety
/// As [`bpf`], and `command` must return a new descriptor.
unsafe fn bpf_fd<T>(command: Command, attr: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: the caller vouches for the attribute.
    let result = unsafe { bpf(command, attr) }?;
    let fd = i32::try_from(result).map_err(io::Error::other)?;
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(crate) fn number(fd: BorrowedFd<'_>) -> u32 {
    // Descriptors are never negative.
    fd.as_raw_fd().unsigned_abs()
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from)
}

/// Makes a map of a kind that the kernel reserves to the privileged, and drops it. `EPERM`: this process may not use
/// bpf(2).
pub fn try_map() -> io::Result<()> {
    let mut attr = MapCreateAttr {
        kind: bpf_map_type::BPF_MAP_TYPE_LPM_TRIE as u32,
        key_size: 8,
        value_size: 4,
        max_entries: 1,
        flags: NO_PREALLOC,
    };
    // SAFETY: the attribute holds no address.
    unsafe { bpf_fd(Command::MapCreate, &mut attr) }.map(drop)
}

/// Opens a pinned object.
pub fn open_pin(path: &Path, access: Access) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let file_flags = if access == Access::Read { READ_ONLY } else { 0 };
    let mut attr = ObjectAttr { pathname: path.as_ptr() as u64, fd: 0, file_flags };
    // SAFETY: the path outlives the call and ends with NUL.
    unsafe { bpf_fd(Command::ObjectGet, &mut attr) }
}

/// Pins an object at `path`, which must not exist.
pub fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = ObjectAttr { pathname: path.as_ptr() as u64, fd: number(object), file_flags: 0 };
    // SAFETY: the path outlives the call and ends with NUL.
    unsafe { bpf(Command::ObjectPin, &mut attr) }.map(drop)
}

/// Attaches a program to a cgroup, beside the programs that are there already. It is detached when the last descriptor
/// and pin of the link are gone.
pub fn link_to_cgroup(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    attach_type: u32,
) -> io::Result<OwnedFd> {
    create_link(program, number(cgroup), attach_type)
}

/// Attaches a program to a device of this thread's network namespace, after the programs that are there already
/// (tcx, kernel 6.6). It is detached when the last descriptor and pin of the link are gone, or with the device.
pub fn link_to_device(program: BorrowedFd<'_>, index: u32, attach_type: u32) -> io::Result<OwnedFd> {
    create_link(program, index, attach_type)
}

fn create_link(program: BorrowedFd<'_>, target: u32, attach_type: u32) -> io::Result<OwnedFd> {
    let mut attr = LinkCreateAttr {
        program: number(program),
        target,
        attach_type,
        flags: 0,
        iterator_info: 0,
        iterator_info_len: 0,
        padding: 0,
    };
    // SAFETY: the attribute holds no address.
    unsafe { bpf_fd(Command::LinkCreate, &mut attr) }
}

/// More programs than the kernel admits on one side of a device: 63 (`bpf_mprog_max`, linux/bpf_mprog.h).
const DEVICE_PROGRAMS: usize = 64;

/// Ids of the links on one side of a device of this thread's network namespace. `EINVAL`: a kernel without tcx.
pub fn device_links(index: u32, attach_type: u32) -> io::Result<Vec<u32>> {
    let (mut programs, mut links) = (vec![0_u32; DEVICE_PROGRAMS], vec![0_u32; DEVICE_PROGRAMS]);
    let mut attr = QueryAttr {
        target: index,
        attach_type,
        program_ids: programs.as_mut_ptr() as u64,
        count: u32::try_from(DEVICE_PROGRAMS).unwrap_or_default(),
        link_ids: links.as_mut_ptr() as u64,
        ..QueryAttr::default()
    };
    // SAFETY: both lists outlive the call and have room for the number of elements told.
    unsafe { bpf(Command::ProgramQuery, &mut attr) }?;
    links.truncate(attr.count as usize);
    Ok(links)
}

/// Replaces the program of a link in one step. `ENOLINK`: the cgroup or device is gone.
pub fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr =
        LinkUpdateAttr { link: number(link), new_program: number(program), flags: 0, old_program: 0 };
    // SAFETY: the attribute holds no address.
    unsafe { bpf(Command::LinkUpdate, &mut attr) }.map(drop)
}

/// What a link connects.
pub fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    let mut info = LinkInfo::default();
    let mut attr = info_attr(link, &mut info);
    // SAFETY: `info` outlives the call and the kernel writes no more than its size; integers of any value are valid.
    unsafe { bpf(Command::InfoByFd, &mut attr) }?;
    Ok(info)
}

/// Details of a program: tag, verified instructions, run time.
pub fn program_info(program: BorrowedFd<'_>) -> io::Result<bpf_prog_info> {
    // SAFETY: a C struct of integers and integer arrays, for which all zero is valid; no address is set, so the kernel
    // fills no list.
    let mut info: bpf_prog_info = unsafe { std::mem::zeroed() };
    let mut attr = info_attr(program, &mut info);
    // SAFETY: `info` outlives the call and the kernel writes no more than its size.
    unsafe { bpf(Command::InfoByFd, &mut attr) }?;
    Ok(info)
}

/// More maps than any program of ours uses.
const MAPS: usize = 64;

/// The ids of the maps that a program uses.
pub fn program_maps(program: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut ids = vec![0; MAPS];
    // SAFETY: a C struct of integers and integer arrays, for which all zero is valid.
    let mut info: bpf_prog_info = unsafe { std::mem::zeroed() };
    info.nr_map_ids = u32::try_from(MAPS).unwrap_or_default();
    info.map_ids = ids.as_mut_ptr() as u64;
    let mut attr = info_attr(program, &mut info);
    // SAFETY: `info` and `ids` outlive the call; the kernel writes no more than the size of the one and the number of
    // elements told for the other.
    unsafe { bpf(Command::InfoByFd, &mut attr) }?;
    ids.truncate(info.nr_map_ids as usize);
    Ok(ids)
}

/// Size of a kernel structure: some dozens of bytes.
pub fn size<T>() -> u32 {
    u32::try_from(size_of::<T>()).unwrap_or(u32::MAX)
}

pub(crate) fn info_attr<T>(object: BorrowedFd<'_>, info: &mut T) -> InfoAttr {
    InfoAttr { fd: number(object), len: size::<T>(), info: std::ptr::from_mut(info) as u64 }
}

/// Opens a program by its id.
pub fn program_by_id(id: u32) -> io::Result<OwnedFd> {
    let mut attr = IdAttr { id, next_id: 0, open_flags: 0 };
    // SAFETY: the attribute holds no address.
    unsafe { bpf_fd(Command::ProgramById, &mut attr) }
}

/// Ties an iterator program to one map (`union bpf_iter_link_info`, member `map`).
pub fn link_iterator(program: BorrowedFd<'_>, map: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let info = number(map);
    let mut attr = LinkCreateAttr {
        program: number(program),
        target: 0,
        attach_type: ATTACH_ITERATOR,
        flags: 0,
        iterator_info: std::ptr::from_ref(&info) as u64,
        iterator_info_len: size::<u32>(),
        padding: 0,
    };
    // SAFETY: `info` outlives the call, and its size is passed along.
    unsafe { bpf_fd(Command::LinkCreate, &mut attr) }
}

/// Starts one run of an iterator; reading to the end runs the program for every element.
pub fn start_iterator(link: BorrowedFd<'_>) -> io::Result<File> {
    let mut attr = IteratorAttr { link: number(link), flags: 0 };
    // SAFETY: the attribute holds no address.
    unsafe { bpf_fd(Command::IteratorCreate, &mut attr) }.map(File::from)
}

/// Where a batched reading continues: the kernel's business, of at most 64 bytes.
#[derive(Clone, Copy, Default)]
pub struct Cursor {
    _kernels: [u64; 8],
}

/// Reads up to the capacity of `keys` and `values` elements into them, from the beginning or from a cursor. Returns the
/// cursor for the next call, or `None` at the end. `ENOSPC`: a hash bucket holds more than the capacity.
///
/// # Safety
/// `K` and `V` must be plain data of exactly the map's key and value size (value size rounded as the kernel does), and
/// the key must not be larger than a [`Cursor`].
pub unsafe fn lookup_batch<K, V>(
    map: BorrowedFd<'_>,
    from: Option<&Cursor>,
    keys: &mut Vec<K>,
    values: &mut Vec<V>,
) -> io::Result<Option<Cursor>> {
    let mut next = Cursor::default();
    keys.clear();
    values.clear();
    let count = keys.capacity().min(values.capacity());
    let mut attr = BatchAttr {
        in_batch: from.map_or(0, |cursor| std::ptr::from_ref(cursor) as u64),
        out_batch: std::ptr::from_mut(&mut next) as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: u32::try_from(count).unwrap_or(u32::MAX),
        map: number(map),
        element_flags: 0,
        flags: 0,
    };
    // SAFETY: cursors and buffers outlive the call; the kernel writes at most `count` elements of the sizes that the
    // caller vouches for.
    let result = unsafe { bpf(Command::LookupBatch, &mut attr) };
    let end = match result {
        Ok(_) => false,
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
        Err(error) => return Err(error),
    };
    let read = (attr.count as usize).min(count);
    // SAFETY: the kernel wrote `read` elements, which is no more than the capacity, and any bytes are valid.
    unsafe {
        keys.set_len(read);
        values.set_len(read);
    }
    Ok((!end && read > 0).then_some(next))
}
