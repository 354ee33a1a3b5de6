import CLibc
import Libc
import Synchronization

/// What the switch knows of a descriptor number. Read by every intercepted call; written by socket, connect, accept, dup and
/// close. One word a number: a pointer with its kind in the low bits.
struct Slot: Equatable {
    enum Kind: UInt {
        case none = 0
        case session = 1
        case listener = 2
        case epoll = 3
        case hidden = 4
        case fresh = 5
        case plainSet = 6
    }

    let bits: UInt
    static let empty = Slot(bits: 0)
    /// A TCP socket that has neither connected nor listened yet.
    static let fresh = Slot(bits: Kind.fresh.rawValue)
    /// An epoll set that holds neither a session nor another set.
    static let plainSet = Slot(bits: Kind.plainSet.rawValue)
    /// A descriptor of ours: closed to the program.
    static let hidden = Slot(bits: Kind.hidden.rawValue)

    @inline(__always) init(bits: UInt) { self.bits = bits }
    /// Fresh, with the options set so far.
    @inline(__always) init(fresh options: StoredOptions) { bits = UInt(options.bits) << 3 | Kind.fresh.rawValue }
    @inline(__always) init(_ session: SessionRef) { bits = UInt(bitPattern: session) | Kind.session.rawValue }
    @inline(__always) init(_ listener: ListenerRef) { bits = UInt(bitPattern: listener) | Kind.listener.rawValue }
    @inline(__always) init(_ set: EpollSetRef) { bits = UInt(bitPattern: set) | Kind.epoll.rawValue }

    @inline(__always) var kind: Kind { Kind(rawValue: bits & 7) ?? .none }
    var isFresh: Bool { kind == .fresh }
    /// Of a fresh socket.
    var options: StoredOptions {
        isFresh ? StoredOptions(bits: UInt32(truncatingIfNeeded: bits >> 3)) : StoredOptions()
    }
    @inline(__always) var session: SessionRef? {
        bits & 7 == Kind.session.rawValue ? SessionRef(bitPattern: bits & ~7) : nil
    }
    @inline(__always) var listener: ListenerRef? {
        bits & 7 == Kind.listener.rawValue ? ListenerRef(bitPattern: bits & ~7) : nil
    }
    @inline(__always) var isEpollSet: Bool { kind == .epoll || kind == .plainSet }
    /// Known by its kind only.
    @inline(__always) var isBare: Bool { kind == .fresh || kind == .plainSet }
    @inline(__always) var epollSet: EpollSetRef? {
        bits & 7 == Kind.epoll.rawValue ? EpollSetRef(bitPattern: bits & ~7) : nil
    }
}

enum DescriptorTable {
    static let capacity = 1 << 20

    /// First slot; nil until the process has its first TCP socket. Written once.
    nonisolated(unsafe) static var slots: UnsafeMutablePointer<Atomic<UInt>>?

    /// One more than the largest number that ever named a session or a set with sessions.
    private static let watchedEnd = Atomic<CInt>(0)
    static var highWater: CInt { watchedEnd.load(ordering: .acquiring) }

    /// One more than the largest number of which anything was ever known.
    private static let knownEnd = Atomic<CInt>(0)
    static var end: CInt { knownEnd.load(ordering: .acquiring) }

    static func create() -> Bool {
        if slots != nil { return true }
        let length = capacity * MemoryLayout<UInt>.stride
        guard let memory = sys_map(length, -1, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE) else { return false }
        let candidate = memory.bindMemory(to: Atomic<UInt>.self, capacity: capacity)
        guardian.lock()
        if slots == nil {
            slots = candidate
            if settings.log > 2 { exchange(settings.log, .hidden) }
        }
        guardian.unlock()
        if slots != candidate { sys_unmap(memory, length) }
        return true
    }

    @inline(__always)
    static func slot(_ fd: CInt) -> Slot {
        guard let slots, UInt32(bitPattern: fd) < UInt32(capacity) else { return .empty }
        return Slot(bits: slots[Int(truncatingIfNeeded: fd)].load(ordering: .acquiring))
    }

    /// Whether `fd` has a session, in two loads: what every call on any other descriptor costs.
    @inline(__always)
    static func isSession(_ fd: CInt) -> Bool { slot(fd).bits & 7 == Slot.Kind.session.rawValue }

    /// Puts `slot` in place and returns what was there.
    @discardableResult
    static func exchange(_ fd: CInt, _ slot: Slot) -> Slot {
        guard let slots, UInt32(bitPattern: fd) < UInt32(capacity) else { return .empty }
        if slot.session != nil || slot.epollSet != nil, fd >= highWater {
            watchedEnd.max(fd &+ 1, ordering: .acquiringAndReleasing)
        }
        if fd >= end { knownEnd.max(fd &+ 1, ordering: .acquiringAndReleasing) }
        return Slot(bits: slots[Int(truncatingIfNeeded: fd)].exchange(slot.bits, ordering: .acquiringAndReleasing))
    }

    /// Puts `after` in place if `before` is there.
    static func compareExchange(_ fd: CInt, _ before: Slot, _ after: Slot) -> Bool {
        guard let slots, UInt32(bitPattern: fd) < UInt32(capacity) else { return false }
        return slots[Int(truncatingIfNeeded: fd)].compareExchange(
            expected: before.bits, desired: after.bits, ordering: .acquiringAndReleasing
        ).exchanged
    }

    /// The session of `fd`, held: it stays valid until `drop`, whatever other threads close meanwhile.
    @inline(__always)
    static func hold(_ fd: CInt) -> SessionRef? {
        guard let session = slot(fd).session else { return nil }
        return holdSlow(session, fd)
    }

    @inline(__always)
    private static func holdSlow(_ first: SessionRef, _ fd: CInt) -> SessionRef? {
        var session = first
        while true {
            // Sessions are pooled, never unmapped, so a stale pointer may be touched; the second look tells.
            session.pointee.holds.wrappingAdd(1, ordering: .acquiringAndReleasing)
            let now = slot(fd)
            if now.session == session { return session }
            session.drop()
            guard let next = now.session else { return nil }
            session = next
        }
    }
}

/// One lock for the rare changes of process-wide tables: listeners, epoll sets, pools. Always the innermost lock.
struct ProcessLock: ~Copyable {
    let word = Atomic<UInt32>(0)

    func lock() {
        while !word.compareExchange(expected: 0, desired: 1, ordering: .acquiring).exchanged { sched_yield() }
    }
    func unlock() { word.store(0, ordering: .releasing) }
    func reset() { word.store(0, ordering: .relaxed) }
}

let guardian = ProcessLock()
