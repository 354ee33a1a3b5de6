import ArgumentParser

@main
struct Sanswitch: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "sanswitch",
        abstract: "Moves the TCP connections of unmodified programs to shared memory or RDMA.",
        discussion: """
            Both ends of a connection must run under the switch; a connection whose other end does not stays on TCP.

            EXAMPLES
              sanswitch run -- iperf3 -s          run a server under the switch
              sanswitch run -- iperf3 -c ::1      and a client
              sanswitch stat                      see which path their connections take
              sanswitch top                       watch them
              sanswitch table                     see which networks RDMA reaches
              sanswitch doctor localhost:5201     why a connection would or would not switch
            """,
        version: "sanswitch 0.1.0",
        subcommands: [Run.self, Stat.self, Top.self, Config.self, Networks.self, Bench.self, Doctor.self, ProviderCheck.self])

    static func main() {
        let arguments = Array(CommandLine.arguments.dropFirst())
        main(arguments.first == "run" ? ["run"] + Run.normalize(Array(arguments.dropFirst())) : arguments)
    }
}
