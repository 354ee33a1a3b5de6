import CLibc
import CProvider
import Libc

/// The options that a program has set on a TCP socket, as far as they may mean something to a provider. Which ones is remembered here, a
/// bit each; their values TCP keeps. They are replayed on the companion before it listens or connects (seed 1).
struct StoredOptions {
    var bits: UInt32 = 0

    private static let count = 10

    private static func option(_ i: Int) -> (level: CInt, name: CInt) {
        switch i {
        case 0: (SOL_SOCKET, SO_DEBUG)
        case 1: (SOL_SOCKET, SO_PRIORITY)
        case 2: (SOL_SOCKET, SO_KEEPALIVE)
        case 3: (SOL_SOCKET, SO_SNDBUF)
        case 4: (SOL_SOCKET, SO_RCVBUF)
        case 5: (SOL_SOCKET, SO_LINGER)
        case 6: (SOL_SOCKET, SO_MARK)
        case 7: (CInt(IPPROTO_TCP), TCP_NODELAY)
        case 8: (CInt(IPPROTO_IP), IP_TOS)
        default: (CInt(IPPROTO_IPV6), IPV6_TCLASS)
        }
    }

    /// The bit of an option; 0 for one that providers are not told of.
    static func bit(_ level: CInt, _ name: CInt) -> UInt32 {
        for i in 0..<count where option(i).level == level && option(i).name == name { return 1 << UInt32(i) }
        return 0
    }

    /// Sets on `companion` what was set on `fd`. An option that the provider does not have is left out; any other failure is one
    /// of the companion's. 0 or -errno.
    func replay(from fd: CInt, on companion: san_socket, of provider: ProviderRef) -> CInt {
        for i in 0..<Self.count where bits & 1 << UInt32(i) != 0 {
            let (level, name) = Self.option(i)
            var value: (UInt64, UInt64) = (0, 0)
            var length = socklen_t(MemoryLayout<(UInt64, UInt64)>.size)
            guard sys_getsockopt(fd, level, name, &value, &length) == 0 else { continue }
            let result = provider.setOption(companion, level, name, &value, length)
            if result != 0, result != -ENOPROTOOPT, result != -EOPNOTSUPP { return result }
        }
        return 0
    }
}

extension DescriptorTable {
    /// Remembers an option that was set before there is a session.
    static func note(_ bit: UInt32, of fd: CInt) {
        while true {
            let before = slot(fd)
            guard before.kind == .fresh else { return }
            let after = Slot(fresh: StoredOptions(bits: before.options.bits | bit))
            if compareExchange(fd, before, after) { return }
        }
    }
}
