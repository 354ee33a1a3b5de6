import CLibc
import CProvider
import CVerbs
import Libc
import Synchronization
import Wire

/// A companion socket of this provider: a listener, or one queue pair with everything that belongs to it. Pooled, never freed, so
/// that fork's child and late events find valid memory.
///
/// Three parties work on it. The *program's threads* call the functions of the provider's table; the *worker* (Worker.swift) alone
/// talks to the connection manager and makes and destroys queues; what both touch is under `lock` or atomic.
struct Link: ~Copyable {
    enum Phase {
        /// Not connected; the program may still say what it is to be.
        static let fresh: UInt32 = 0
        static let listening: UInt32 = 1
        static let connecting: UInt32 = 2
        static let established: UInt32 = 3
        /// Over: `failure` says why, 0 for a peer that has gone.
        static let ended: UInt32 = 4
    }

    let phase = Atomic<UInt32>(Phase.fresh)
    /// An errno, valid once `phase` is `ended`.
    let failure = Atomic<CInt>(0)
    let lock = LinkLock()

    // MARK: The worker's list of work
    let isQueued = Atomic<UInt32>(0)
    nonisolated(unsafe) var nextWork: LinkRef?
    /// What the program asked for; set before queueing.
    let wantsListen = Atomic<UInt32>(0)
    let wantsClose = Atomic<UInt32>(0)

    // MARK: Identity
    /// Listener: where it listens. Client: the server's address.
    nonisolated(unsafe) var address: SocketAddress?
    /// The TCP connection, its client's end first; from the first message or the request's private data.
    nonisolated(unsafe) var tuple: ConnectionTuple?
    /// librdmacm's identifier; the worker's.
    nonisolated(unsafe) var identifier: UnsafeMutableRawPointer?
    /// When the worker gives up the step under way, nanoseconds; 0 for never.
    nonisolated(unsafe) var deadline: UInt64 = 0
    nonisolated(unsafe) var isClosing = false
    nonisolated(unsafe) var isServer = false
    nonisolated(unsafe) var wasListening = false
    /// A server's link until the program can take it: the listener it arrived at.
    nonisolated(unsafe) var listener: LinkRef?
    /// Given back, but still on the list of work.
    nonisolated(unsafe) var isDead = false

    // MARK: Doorbell: a pair of local sockets, so that waiting, signals and the end are exactly as on `shm`
    /// The program's end: readable for a doorbell, a message, a connection, the end.
    nonisolated(unsafe) var near: CInt = -1
    /// The worker's end; closed when the companion has ended.
    nonisolated(unsafe) var far: CInt = -1
    /// 1: the peer has used the notification that it was granted, and waits for the next grant.
    let hasNotification = Atomic<UInt32>(0)

    // MARK: A listener's connections
    let arrived = Atomic<UInt>(0)
    nonisolated(unsafe) var nextArrived: LinkRef?

    // MARK: Queues and memory
    nonisolated(unsafe) var queues = verbs_queues()
    nonisolated(unsafe) var control = Area()
    nonisolated(unsafe) var exposed = Area()
    nonisolated(unsafe) var copy = Area()
    /// The peer's exposed memory, as its message named it.
    nonisolated(unsafe) var remote = RemoteArea()
    /// The one message to send, from `outgoingLength` 1 on (release); the worker takes it.
    let outgoingLength = Atomic<Int>(0)
    nonisolated(unsafe) var outgoing = InlineArray<28, UInt64>(repeating: 0)
    /// The one message received, likewise; `recv` takes it.
    let incomingLength = Atomic<Int>(0)
    nonisolated(unsafe) var incoming = InlineArray<28, UInt64>(repeating: 0)
    nonisolated(unsafe) var flow = Flow()
    /// Pushes by a signal handler that interrupted one of the same thread.
    let deferred = Atomic<UInt32>(0)

    nonisolated(unsafe) var nextInPool: LinkRef?
    nonisolated(unsafe) var nextFree: LinkRef?
}

typealias LinkRef = UnsafeMutablePointer<Link>

/// Memory of this end, registered or not.
struct Area {
    var address: UnsafeMutableRawPointer?
    var length = 0
    var region = verbs_region()

    @inline(__always) var word: UInt64 { UInt64(UInt(bitPattern: address)) }

    /// Maps `length` bytes, shared with forked relatives: fork must not copy what a device writes.
    mutating func map(_ length: Int) -> Bool {
        guard let memory = sys_map(length, -1, MAP_SHARED | MAP_ANONYMOUS) else { return false }
        address = memory
        self.length = length
        return true
    }

    mutating func release() {
        verbs_deregister(&region)
        if let address { sys_unmap(address, length) }
        self = Area()
    }
}

/// Memory of the peer that this end may write.
struct RemoteArea {
    var address: UInt64 = 0
    var length: UInt64 = 0
    var key: UInt32 = 0
}

/// Links not in use, and all there are.
enum LinkPool {
    nonisolated(unsafe) private static var free: LinkRef?
    /// Every link; grows at its head only.
    static let first = Atomic<UInt>(0)
    static let lock = LinkLock()

    /// A fresh link with its doorbell; or the errno that made it impossible.
    static func take(_ out: inout LinkRef?) -> CInt {
        var ends: (CInt, CInt) = (-1, -1)
        let made = withUnsafeMutablePointer(to: &ends) {
            $0.withMemoryRebound(to: CInt.self, capacity: 2) { sys_socketpair($0) }
        }
        guard made == 0 else { return CInt(truncatingIfNeeded: made) }
        ends.0 = place(ends.0)
        ends.1 = place(ends.1)
        guard ends.0 >= 0, ends.1 >= 0 else {
            release(ends.0)
            release(ends.1)
            return -EMFILE
        }
        let link = take()
        link.pointee.near = ends.0
        link.pointee.far = ends.1
        out = link
        return 0
    }

    private static func take() -> LinkRef {
        lock.lock()
        defer { lock.unlock() }
        if let link = free {
            free = link.pointee.nextFree
            let next = link.pointee.nextInPool
            link.initialize(to: Link())
            link.pointee.nextInPool = next
            return link
        }
        let link = LinkRef.allocate(capacity: 1)
        link.initialize(to: Link())
        link.pointee.nextInPool = LinkRef(bitPattern: first.load(ordering: .relaxed))
        first.store(UInt(bitPattern: link), ordering: .releasing)
        return link
    }

    static func give(_ link: LinkRef) {
        lock.lock()
        link.pointee.nextFree = free
        free = link
        lock.unlock()
    }

    static func forEach(_ body: (LinkRef) -> Void) {
        var next = LinkRef(bitPattern: first.load(ordering: .acquiring))
        while let link = next {
            body(link)
            next = link.pointee.nextInPool
        }
    }
}

/// A lock within the process, held for a few stores and a posting. It knows its owner: a signal handler that interrupts it must
/// not wait for it.
struct LinkLock: ~Copyable {
    /// The owner's thread id; 0 for none.
    private let owner = Atomic<UInt32>(0)

    @inline(__always) var isMine: Bool { owner.load(ordering: .relaxed) == libc_thread_id() }

    func lock() {
        let me = libc_thread_id()
        var rounds = 0
        while !owner.compareExchange(expected: 0, desired: me, ordering: .acquiring).exchanged {
            rounds &+= 1
            if rounds < 100 { libc_spin_hint() } else { _ = sched_yield() }
        }
    }

    func unlock() { owner.store(0, ordering: .releasing) }
}
