using System.CommandLine;
using System.CommandLine.Parsing;
using System.Diagnostics;
using System.Globalization;
using Godwit.Lab.Bench;
using Godwit.Lab.Ceph;
using Godwit.Lab.Daemons;
using Godwit.Lab.Faults;
using Godwit.Lab.Guests;
using Godwit.Lab.Network;
using Godwit.Lab.Qemu;
using Godwit.Lab.Scenarios;

namespace Godwit.Lab;

/// <summary>The command line of <c>godwit-lab</c>.</summary>
/// <remarks>
/// Exit status: 0 done and nothing lost, 1 something was lost or wrong, 2 a usage error, 3 the lab failed.
/// </remarks>
internal static class LabCommands
{
    internal static int Run(string[] args)
    {
        RootCommand root = new(
            "Two hosts, a switch and an outside client in network namespaces of this machine, with real guests.")
        {
            Prepare(), Up(), Down(), Status(), Exec(), Link(), RunScenario(), Bench(), Qemu72(), CephFolder(),
            RelayProcess(),
        };
        try
        {
            // A scenario's name may begin with @.
            ParseResult parsed = root.Parse(args, new ParserConfiguration { ResponseFileTokenReplacer = null });
            int status = parsed.Invoke(new InvocationConfiguration { EnableDefaultExceptionHandler = false });
            return parsed.Errors.Count > 0 ? 2 : status;
        }
        catch (LabException e)
        {
            Console.Error.WriteLine($"godwit-lab: {e.Message}");
            return 3;
        }
    }

    private static void Say(string line) => Console.Error.WriteLine(line);

    private static Option<string> LinkOption() => new("--link")
    {
        Description = "Rate of each host's uplink: 1Gbit, 300Mbit, unshaped.",
        DefaultValueFactory = _ => "1Gbit",
    };

    private static Option<string> DelayOption() => new("--delay")
    {
        Description = "One-way delay from host to host, through the lab's relay: 5ms.",
        DefaultValueFactory = _ => "0ms",
    };

    private static Option<string> OutputOption()
    {
        Option<string> output = new("--output", "-o")
        {
            Description = "text or json.",
            DefaultValueFactory = _ => "text",
        };
        return output.AcceptOnlyFromAmong("text", "json");
    }

    private static LinkShape ShapeOf(ParseResult parsed, Option<string> link, Option<string> delay) =>
        new(LinkShape.ParseRate(parsed.GetValue(link)!), LinkShape.ParseDelay(parsed.GetValue(delay)!));

    private static Command Prepare()
    {
        Command command = new("prepare", "Install from apt what the lab needs and this machine lacks; nothing else.");
        command.SetAction(_ => Machine.Prepare(Say));
        return command;
    }

    private static Command Up()
    {
        Option<string> link = LinkOption();
        Option<string> delay = DelayOption();
        Option<bool> bare = new("--bare") { Description = "Hosts without daemons." };
        Command command = new("up", "Bring the lab up, clean, whatever an earlier run left.") { link, delay, bare };
        command.SetAction(parsed =>
        {
            LinkShape shape = ShapeOf(parsed, link, delay);
            Machine.Prepare(Say);
            using IDisposable hold = LabSession.Hold();
            GuestImage image = GuestImage.Obtain(Say);
            LabSession.Up(shape);
            try
            {
                using LabDaemons? daemons = parsed.GetValue(bare) ? null : LabDaemons.Start();
            }
            catch (LabException)
            {
                LabSession.Down();
                throw;
            }

            Say(
                $"The lab \"{LabDirectory.Name}\" is up: hosts a and b, client, link {shape}. "
                + $"Guest image: {image.Folder}");
        });
        return command;
    }

    private static Command Down()
    {
        Command command = new("down", "Remove everything of the lab: guests, daemons, namespaces, files. Idempotent.");
        command.SetAction(_ =>
        {
            using IDisposable hold = LabSession.Hold();
            LabSession.Down();
        });
        return command;
    }

    private static Command Status()
    {
        Command command = new("status", "Show whether the lab is up and what runs in it.");
        command.SetAction(_ =>
        {
            LabRecord? record = LabSession.Current;
            if (record is null)
            {
                Console.WriteLine($"The lab \"{LabDirectory.Name}\" is down.");
                return 0;
            }

            Console.WriteLine($"The lab \"{LabDirectory.Name}\" is up since {record.Since:u}, link {record.Shape}.");
            foreach (string space in LabNetwork.Namespaces().Order())
            {
                string[] processes = [.. LabProcesses.In(space).Select(Describe)];
                string host = space[LabDirectory.NamespacePrefix.Length..];
                Console.WriteLine($"  {host,-8}{(processes.Length == 0 ? "-" : string.Join(", ", processes))}");
            }

            return 0;
        });
        return command;

        static string Describe(int id)
        {
            try
            {
                return $"{File.ReadAllText($"/proc/{id}/comm").Trim()} ({id})";
            }
            catch (IOException)
            {
                return id.ToString(CultureInfo.InvariantCulture);
            }
        }
    }

    private static Command Exec()
    {
        Argument<string> host = new("host") { Description = "a, b, client or switch." };
        Argument<string[]> words = new("command") { Description = "The command and its arguments, after --." };
        Command command = new("exec", "Run a command inside one of the lab's hosts: godwit-lab exec a -- ip addr")
        {
            host, words,
        };
        command.SetAction(parsed =>
        {
            string space = LabDirectory.Namespace(parsed.GetValue(host)!);
            if (!LabNetwork.Namespaces().Contains(space))
            {
                throw new LabException($"The lab has no host {parsed.GetValue(host)} now: godwit-lab status.");
            }

            ProcessStartInfo start = new("ip", ["netns", "exec", space, .. parsed.GetValue(words)!]);
            string client = Path.GetDirectoryName(LabDaemons.Program("Cli", "godwit"))!;
            start.Environment["PATH"] = string.Join(':', Tool.SearchPath.Append(client));
            // So that "godwit-lab exec a -- godwit vm list" speaks to the daemon of host a.
            start.Environment["GODWIT_SOCKET"] = LabDaemons.SocketOf(parsed.GetValue(host)!);
            using Process process = Process.Start(start)!;
            process.WaitForExit();
            return process.ExitCode;
        });
        return command;
    }

    private static Command Link()
    {
        Argument<string> host = new("host") { Description = "a or b." };
        Argument<string[]> words = new("order") { Description = "delay MS [in|out], loss PERCENT, cut or mend." };
        Command command = new("link", "Order the relay on a host's uplink (the lab must be up with --delay).")
        {
            host, words,
        };
        command.SetAction(parsed => Relay.Order(parsed.GetValue(host)!, string.Join(' ', parsed.GetValue(words)!)));
        return command;
    }

    private static Command RunScenario()
    {
        Argument<string?> name = new("scenario") { Arity = ArgumentArity.ZeroOrOne, Description = "See --list." };
        Option<bool> list = new("--list") { Description = "Name the scenarios." };
        Option<string> output = OutputOption();
        Option<string> link = LinkOption();
        Option<string> delay = DelayOption();
        Option<string[]> only = new("--only")
        {
            Description = "Of the faults, only cells whose name contains this; may be repeated.",
        };
        Option<bool> fresh = new("--fresh") { Description = "A lab for each cell of the faults, not one for all." };
        Option<bool> keep = new("--keep") { Description = "Leave the lab up afterwards, to look around in it." };
        Command command = new("run", "Run a scenario in a fresh lab; exit status 0 only if nothing was lost.")
        {
            name, list, output, link, delay, only, fresh, keep,
        };
        command.SetAction(parsed =>
        {
            if (parsed.GetValue(list) || parsed.GetValue(name) is null)
            {
                int width = Scenario.All.Max(scenario => scenario.Name.Length) + 2;
                Console.WriteLine(FaultMatrix.Name.PadRight(width) + FaultMatrix.Summary);
                foreach (Scenario scenario in Scenario.All)
                {
                    Console.WriteLine(scenario.Name.PadRight(width) + scenario.Summary);
                }

                return parsed.GetValue(list) ? 0 : 2;
            }

            LinkShape shape = ShapeOf(parsed, link, delay);
            if (parsed.GetValue(name) == FaultMatrix.Name)
            {
                return FaultMatrix.Execute(
                    parsed.GetValue(only) ?? [], parsed.GetValue(fresh), shape, parsed.GetValue(output) == "json");
            }

            Scenario chosen = Scenario.Named(parsed.GetValue(name)!);
            return ScenarioRun.Execute(chosen, shape, parsed.GetValue(output) == "json", parsed.GetValue(keep));
        });
        return command;
    }

    private static Command Bench()
    {
        Option<bool> list = new("--list") { Description = "Name the scenarios and modes." };
        Option<string?> only = new("--only") { Description = "Only scenarios whose name (load@link) contains this." };
        Option<string[]> modes = new("--mode") { Description = "Only this mode; may be repeated." };
        Option<int> runs = new("--runs") { Description = "Runs of each mode.", DefaultValueFactory = _ => 3 };
        Option<int> pauses = new("--pauses")
        {
            Description = "Instead: so many moves under every load and pause budget, and how many paused for longer.",
        };
        Option<string> link = LinkOption();
        link.Description = "With --pauses: the rate of each host's uplink.";
        Option<string> output = OutputOption();
        Option<bool> sleep = new("--sleep")
        {
            Description = "Measure sleeping and waking instead of moves, each figure against its limit.",
        };
        Option<bool> methods = new("--methods")
        {
            Description = "Compare what Godwit chooses with every method that it could have chosen.",
        };
        Command command = new("bench", "Compare Godwit with plain QEMU: same guest, same link, runs interleaved.")
        {
            list, only, modes, methods, sleep, runs, pauses, link, output,
        };
        command.SetAction(parsed =>
        {
            if (parsed.GetValue(list))
            {
                BenchRun.List(Console.Out);
                return 0;
            }

            if (parsed.GetValue(sleep))
            {
                return SleepBench.Execute(
                    parsed.GetValue(only) ?? "", Math.Clamp(parsed.GetValue(runs), 1, 100),
                    parsed.GetValue(output) == "json");
            }

            if (parsed.GetValue(pauses) is > 0 and int moves)
            {
                return PauseBench.Execute(
                    Math.Min(moves, 10_000), new LinkShape(LinkShape.ParseRate(parsed.GetValue(link)!), TimeSpan.Zero),
                    parsed.GetValue(output) == "json");
            }

            return BenchRun.Execute(
                parsed.GetValue(methods), parsed.GetValue(only), parsed.GetValue(modes) ?? [],
                Math.Clamp(parsed.GetValue(runs), 1, 100), parsed.GetValue(output) == "json");
        });
        return command;
    }

    private static Command Qemu72()
    {
        Command command = new("qemu72", "Fetch QEMU 7.2 without installing it, and print the path of what starts it.");
        command.SetAction(_ => Console.WriteLine(OlderQemu.Obtain(Say)));
        return command;
    }

    private static Command CephFolder()
    {
        Command command = new("ceph", "Fetch Ceph 16.2 without installing it, and print the folder of its files.");
        command.SetAction(_ => Console.WriteLine(CephFiles.Obtain(Say)));
        return command;
    }

    private static Command RelayProcess()
    {
        Argument<string> host = new("host");
        Argument<double> delay = new("milliseconds");
        Command command = new("relay") { host, delay };
        command.Hidden = true;
        command.SetAction(parsed =>
            Relay.Serve(parsed.GetValue(host)!, TimeSpan.FromMilliseconds(parsed.GetValue(delay))));
        return command;
    }
}
