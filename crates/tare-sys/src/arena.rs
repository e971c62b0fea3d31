//! The allocator of the first megabyte.
//!
//! A start of a container takes well under a megabyte of heap and ends within milliseconds. The C library's
//! allocator asks the kernel for that memory in a hundred small pieces, which costs more than the work done in
//! them; this one hands out a fixed block in `.bss`, front to back, and goes to the system once it is full.
//!
//! ```text
//! bytes  ████████████████░░░░░░░░░░░░░░░░   full ──▶ System
//!                        ▲ used
//! ```
//!
//! Memory inside the block is not reused, with one exception: the block handed out last can grow, shrink and be
//! given back in place. That is what a growing `Vec` or `String` does, so little is wasted.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Size of the block.
const SIZE: usize = 1 << 20;

/// A bump allocator that falls back to [`System`]. Make it a `static`: all zero, it costs no space in the binary
/// and only the pages that are used cost memory.
///
/// ```ignore
/// #[global_allocator]
/// static ARENA: tare_sys::arena::Arena = tare_sys::arena::Arena::new();
/// ```
#[repr(C, align(64))]
pub struct Arena {
    bytes: UnsafeCell<[u8; SIZE]>,
    /// Offset of the first free byte; never above `SIZE`.
    used: AtomicUsize,
}

// SAFETY: `bytes` is only reached through ranges that a successful compare-exchange on `used` gave to one caller.
unsafe impl Sync for Arena {}

impl Arena {
    /// An empty arena.
    pub const fn new() -> Arena {
        Arena { bytes: UnsafeCell::new([0; SIZE]), used: AtomicUsize::new(0) }
    }

    /// Bytes handed out so far, for measurements.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Hands out nothing more: for a process that lives long, and must not grow with what it gives back.
    pub fn close(&self) {
        self.used.store(SIZE, Ordering::Relaxed);
    }

    fn base(&self) -> *mut u8 {
        self.bytes.get().cast()
    }

    /// Where in the block `block` begins, if it is ours.
    fn offset(&self, block: *mut u8) -> Option<usize> {
        block.addr().checked_sub(self.base().addr()).filter(|offset| *offset < SIZE)
    }

    /// Takes the next `layout.size()` bytes, or null if the block is too full.
    fn bump(&self, layout: Layout) -> *mut u8 {
        let base = self.base().addr();
        let mut used = self.used.load(Ordering::Relaxed);
        loop {
            let Some(start) = (base + used).checked_next_multiple_of(layout.align()).map(|at| at - base)
            else {
                return ptr::null_mut();
            };
            let Some(end) = start.checked_add(layout.size()).filter(|end| *end <= SIZE) else {
                return ptr::null_mut();
            };
            // Acquire: the bytes may have been written and given back by another thread.
            match self.used.compare_exchange_weak(used, end, Ordering::Acquire, Ordering::Relaxed) {
                // SAFETY: `start` <= `end` <= `SIZE`, so the pointer stays within `bytes`.
                Ok(_) => return unsafe { self.base().add(start) },
                Err(now) => used = now,
            }
        }
    }

    /// Moves the end of the last block; false if the block that ends at `from` is not the last one.
    fn move_end(&self, from: usize, to: usize) -> bool {
        self.used.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}

impl Default for Arena {
    fn default() -> Arena {
        Arena::new()
    }
}

// SAFETY: every range that `bump` returns is inside `bytes`, aligned as asked, and disjoint from all others in
// use: `used` only moves back over the last block, when its owner gives it up. The rest is `System`'s promise.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let block = self.bump(layout);
        if !block.is_null() {
            return block;
        }
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let block = self.bump(layout);
        if block.is_null() {
            // SAFETY: the caller's promise about `layout` is passed on.
            return unsafe { System.alloc_zeroed(layout) };
        }
        // A block that was given back leaves its bytes behind, so fresh from `.bss` is not to be relied on.
        // SAFETY: `bump` gave these `layout.size()` bytes to us alone.
        unsafe { block.write_bytes(0, layout.size()) };
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match self.offset(block) {
            Some(start) => {
                self.move_end(start + layout.size(), start);
            }
            // SAFETY: not in the arena, so it came from `System` with this layout.
            None => unsafe { System.dealloc(block, layout) },
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let Some(start) = self.offset(block) else {
            // SAFETY: not in the arena, so it came from `System`; the caller's promises are passed on.
            return unsafe { System.realloc(block, layout, new_size) };
        };
        let new_end = start.checked_add(new_size).filter(|end| *end <= SIZE);
        if new_end.is_some_and(|end| self.move_end(start + layout.size(), end)) || new_size <= layout.size() {
            return block;
        }
        // SAFETY: the caller promises that `new_size`, rounded up to the alignment, does not overflow.
        let new_layout = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        // SAFETY: `new_layout` is valid by the line above and not empty by the caller's promise.
        let moved = unsafe { self.alloc(new_layout) };
        if !moved.is_null() {
            // SAFETY: `moved` is a fresh block of more than `layout.size()` bytes; the old one has that many.
            unsafe { ptr::copy_nonoverlapping(block, moved, layout.size()) };
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap()
    }

    #[test]
    fn hands_out_aligned_blocks_that_do_not_overlap() {
        static ARENA: Arena = Arena::new();
        let mut end = 0;
        for (size, align) in [(1, 1), (8, 8), (3, 1), (64, 64), (1, 1), (4096, 4096)] {
            // SAFETY: no layout is empty.
            let block = unsafe { ARENA.alloc(layout(size, align)) };
            assert!(block.addr().is_multiple_of(align));
            assert!(ARENA.offset(block).is_some() && block.addr() >= end);
            end = block.addr() + size;
        }
    }

    #[test]
    fn last_block_is_rolled_back_and_others_are_not() {
        static ARENA: Arena = Arena::new();
        // SAFETY: no layout is empty; each block is given back once, with its layout.
        unsafe {
            let first = ARENA.alloc(layout(100, 1));
            let last = ARENA.alloc(layout(50, 1));
            ARENA.dealloc(last, layout(50, 1));
            assert_eq!(ARENA.used(), 100);
            let again = ARENA.alloc(layout(50, 1));
            assert_eq!(again, last);
            ARENA.dealloc(first, layout(100, 1));
            assert_eq!(ARENA.used(), 150);
        }
    }

    #[test]
    fn last_block_grows_and_shrinks_in_place() {
        static ARENA: Arena = Arena::new();
        // SAFETY: no layout is empty; blocks are used within their size.
        unsafe {
            let block = ARENA.alloc(layout(10, 1));
            block.write_bytes(7, 10);
            assert_eq!(ARENA.realloc(block, layout(10, 1), 1000), block);
            assert_eq!(ARENA.realloc(block, layout(1000, 1), 10), block);
            assert_eq!(ARENA.used(), 10);
            let other = ARENA.alloc(layout(1, 1));
            let moved = ARENA.realloc(block, layout(10, 1), 20);
            assert!(moved > other);
            assert_eq!(std::slice::from_raw_parts(moved, 10), [7; 10]);
        }
    }

    #[test]
    fn zeroed_memory_is_zero_even_where_it_was_used() {
        static ARENA: Arena = Arena::new();
        // SAFETY: no layout is empty; blocks are used within their size.
        unsafe {
            let block = ARENA.alloc(layout(64, 8));
            block.write_bytes(0xff, 64);
            ARENA.dealloc(block, layout(64, 8));
            let zeroed = ARENA.alloc_zeroed(layout(64, 8));
            assert_eq!(zeroed, block);
            assert_eq!(std::slice::from_raw_parts(zeroed, 64), [0; 64]);
        }
    }

    #[test]
    fn falls_back_to_the_system_when_full() {
        static ARENA: Arena = Arena::new();
        // SAFETY: no layout is empty; each block is given back once, with its layout.
        unsafe {
            let most = ARENA.alloc(layout(SIZE - 16, 1));
            let outside = ARENA.alloc(layout(17, 1));
            assert!(ARENA.offset(most).is_some() && ARENA.offset(outside).is_none());
            outside.write_bytes(1, 17);
            let outside = ARENA.realloc(outside, layout(17, 1), 4000);
            assert_eq!(*outside.add(16), 1);
            ARENA.dealloc(outside, layout(4000, 1));
            // A block inside that outgrows the arena moves out with its contents.
            most.write_bytes(3, SIZE - 16);
            let moved = ARENA.realloc(most, layout(SIZE - 16, 1), SIZE + 1);
            assert!(ARENA.offset(moved).is_none());
            assert_eq!(*moved.add(SIZE - 17), 3);
            ARENA.dealloc(moved, layout(SIZE + 1, 1));
        }
    }

    #[test]
    fn threads_never_share_a_block() {
        static ARENA: Arena = Arena::new();
        std::thread::scope(|scope| {
            for mark in 1..=4_u8 {
                scope.spawn(move || {
                    for round in 0..2_000_usize {
                        let size = 1 + round % 61;
                        // SAFETY: the layout is not empty; the block is used within its size and given back once.
                        unsafe {
                            let block = ARENA.alloc(layout(size, 1));
                            block.write_bytes(mark, size);
                            std::hint::spin_loop();
                            assert!(std::slice::from_raw_parts(block, size).iter().all(|byte| *byte == mark));
                            ARENA.dealloc(block, layout(size, 1));
                        }
                    }
                });
            }
        });
    }
}
