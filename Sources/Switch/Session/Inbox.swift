import Libc
import Synchronization
import Wire

/// The head of the memory that one end exposes and the other writes: cursors and flags, then the rings from
/// `Limits.inboxHeader` on. Everything here is the peer's word: read once, checked, never used as an address or a length.
struct Inbox: ~Copyable {
    /// Where the words of each role lie that have a meaning on another host; the flags of the sleepers have none there.
    static let senderWords = 0..<40
    static let receiverWords = 128..<152

    // Line 0: the peer as sender.
    /// Stream offset up to which the ring holds bytes. The receiver's load (acquire) pairs with the sender's store. Within an
    /// interval never less than consumed, never more than consumed + capacity.
    let produced: Atomic<UInt64>
    /// Turns: where the latest interval in the ring begins, stored before the TCP bytes that end there are sent; and where the
    /// interval of the same number ends, once that is decided.
    let over: Atomic<UInt64>
    let back: Atomic<UInt64>
    /// Which ring holds the bytes, and from which offset on (RingShape). Stored before the bytes, published by `produced`.
    let shape: Atomic<UInt64>
    /// 1: the sender has shut its direction down; TCP's FIN says so too, and is believed rather than this.
    let finished: Atomic<UInt32>
    /// The processor that the peer last worked on, plus one: to spin on the same one would only keep the peer from running.
    let processor: Atomic<UInt32>
    let line0: (UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64)
    // Line 1: the peer as receiver of what I send.
    /// Stream offset up to which the peer has taken my bytes.
    let consumed: Atomic<UInt64>
    /// The `over` that the peer follows: it takes no TCP byte beyond it. 0: it reads TCP.
    let accepted: Atomic<UInt64>
    /// Where the peer asks the interval of that number to end, since it cannot read the ring any longer.
    let wish: Atomic<UInt64>
    /// 1: a receiver at the peer sleeps; whoever takes it back to 0 rings the doorbell.
    let receiverAsleep: Atomic<UInt32>
    let pad1: UInt32
    let line1: (UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64)
    // Line 2
    /// 1: a sender at the peer sleeps for want of space.
    let senderAsleep: Atomic<UInt32>
}

typealias InboxRef = UnsafeMutablePointer<Inbox>

/// Which of the two rings takes the bytes from a stream offset on; the bytes before it are in the other one. The sender changes it
/// when everything before the previous change has been taken, so one word tells all.
struct RingShape {
    let word: UInt64

    init(word: UInt64) { self.word = word }
    init(isLarge: Bool, from offset: UInt64) { word = offset << 1 | (isLarge ? 1 : 0) }

    @inline(__always) var isLarge: Bool { word & 1 == 1 }
    @inline(__always) var from: UInt64 { word >> 1 }
}

/// The bytes of one ring: positions are stream offsets, and nobody outside handles the wrap.
struct Ring {
    let base: UnsafeMutableRawPointer
    let capacity: UInt64

    /// The small or the large ring behind `inbox`; `large` is the agreed size of the latter, a power of two.
    @inline(__always)
    init(_ inbox: InboxRef, isLarge: Bool, large: UInt64) {
        base = UnsafeMutableRawPointer(inbox) + Limits.inboxHeader + (isLarge ? Int(Limits.smallRing) : 0)
        capacity = isLarge ? large : Limits.smallRing
    }

    /// The `count` bytes at `offset` as at most two runs. `count` is at most `capacity`.
    @inline(__always)
    func withBytes(
        at offset: UInt64, count: Int, _ body: (UnsafeMutableRawPointer, Int, UnsafeMutableRawPointer, Int) -> Void
    ) {
        let position = Int(truncatingIfNeeded: offset & (capacity &- 1))
        let first = min(count, Int(truncatingIfNeeded: capacity) &- position)
        body(base + position, first, base, count &- first)
    }
}
