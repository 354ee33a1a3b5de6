import CLibc
import CProvider
import Libc
import Registry
import SANShm
import Synchronization

/// The providers that this process has started, in the order in which they are asked.
enum Providers {
    /// Most providers of a process.
    static let capacity = 8

    /// Guards the list. Taken after `Broker.lock`, before `guardian`.
    static let lock = ProcessLock()

    /// The built-in provider; there from the first TCP socket on.
    nonisolated(unsafe) static var embedded: ProviderRef?
    nonisolated(unsafe) static var first: ProviderRef?
    nonisolated(unsafe) static var count = 0

    /// Starts the embedded provider. False: everything stays on TCP.
    static func startEmbedded() -> Bool {
        var tables = ProviderTables()
        guard tables.start(shmStartup, upcalls: Upcalls.table, guid: nil) == nil else { return false }
        let provider = add(
            tables, Registration(name: ShmIdentity.name, guid: tables.info.guid, library: nil, order: ShmIdentity.order)
        )
        provider?.pointee.isListed = Choice.position(of: ShmIdentity.name, library: nil) != nil
        embedded = provider
        return provider != nil
    }

    /// Puts a started provider into the list; nil when it is full. With the lock, or before anybody else looks.
    static func add(_ tables: ProviderTables, _ registration: Registration) -> ProviderRef? {
        guard count < capacity else { return nil }
        let provider = ProviderRef.allocate(capacity: 1)
        provider.initialize(to: Provider(tables, registration, index: count))
        count &+= 1
        insert(provider)
        return provider
    }

    private static func insert(_ provider: ProviderRef) {
        var before: ProviderRef?
        var after = first
        while let candidate = after, candidate.pointee.order <= provider.pointee.order {
            before = candidate
            after = candidate.pointee.next
        }
        provider.pointee.next = after
        if let before { before.pointee.next = provider } else { first = provider }
    }

    /// Puts the list in order after orders have changed. With the lock.
    static func sort() {
        var rest = first
        first = nil
        while let provider = rest {
            rest = provider.pointee.next
            insert(provider)
        }
    }

    /// The provider after `previous` (nil: the first) that may carry the connection between `local` and `peer`.
    static func suitable(after previous: ProviderRef?, _ local: SocketAddress, _ peer: SocketAddress) -> ProviderRef? {
        lock.lock()
        defer { lock.unlock() }
        return find(after: previous) { $0.pointee.subnets.reach(local, peer) }
    }

    /// The provider after `previous` that can listen beside a TCP listener at `address`.
    static func listening(after previous: ProviderRef?, at address: SocketAddress) -> ProviderRef? {
        lock.lock()
        defer { lock.unlock() }
        return find(after: previous) { address.isWildcard || $0.pointee.subnets.mayBind(address) }
    }

    private static func find(after previous: ProviderRef?, _ condition: (ProviderRef) -> Bool) -> ProviderRef? {
        var next = previous == nil ? first : previous?.pointee.next
        while let candidate = next {
            if candidate.pointee.isListed, condition(candidate) { return candidate }
            next = candidate.pointee.next
        }
        return nil
    }
}
