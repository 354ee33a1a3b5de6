import CLibc
import CProvider
import Libc
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
        let provider = ProviderRef.allocate(capacity: 1)
        provider.initialize(to: Provider(index: 0, order: 50))
        let result = provider.start { tcp, upcalls, functions, info in
            shmStartup(
                version: UInt32(SAN_ABI_VERSION), tcp: tcp, upcalls: upcalls, functions: &functions, info: &info)
        }
        guard result == 0 else { return false }
        embedded = provider
        insert(provider)
        return true
    }

    /// Puts a started provider where its order says. With the lock.
    static func insert(_ provider: ProviderRef) {
        var before: ProviderRef?
        var after = first
        while let candidate = after, candidate.pointee.order <= provider.pointee.order {
            before = candidate
            after = candidate.pointee.next
        }
        provider.pointee.next = after
        if let before { before.pointee.next = provider } else { first = provider }
        count &+= 1
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
