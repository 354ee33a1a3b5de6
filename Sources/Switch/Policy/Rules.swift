import Configuration
import Libc

/// The rules of the configuration that are for this program, in their order. Written once, before the first session.
enum Rules {
    nonisolated(unsafe) private static var list: UnsafeMutablePointer<Rule>?
    nonisolated(unsafe) private static var count = 0

    /// False: no room.
    static func add(_ rule: Rule) -> Bool {
        if list == nil { list = .allocate(capacity: Parser.ruleLimit) }
        guard let list, count < Parser.ruleLimit else { return false }
        (list + count).initialize(to: rule)
        count &+= 1
        return true
    }

    /// Whether the switch may serve a connection to, or a listener at, `address`. Without a rule it may.
    static func allow(_ role: Role, _ address: SocketAddress) -> Bool {
        guard let list else { return true }
        for index in 0..<count where list[index].matches(role, address) { return list[index].isAllowed }
        return true
    }
}
