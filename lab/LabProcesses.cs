using System.Diagnostics;
using System.Globalization;
using System.Runtime.InteropServices;
using Godwit.Lab.Network;

namespace Godwit.Lab;

/// <summary>The processes of the lab: started inside its namespaces, found again by them.</summary>
/// <remarks>
/// Whatever the lab or a daemon of the lab starts lives in one of the lab's network namespaces, so the kernel's own
/// list of a namespace's members is complete even after a crash of everything that kept records. No process is ever
/// looked for by name.
/// </remarks>
internal static partial class LabProcesses
{
    /// <summary>The command that runs this program again.</summary>
    internal static IReadOnlyList<string> Self { get; } = FindSelf();

    /// <summary>Starts a program in a host's namespace, detached, with its output in <c>NAME.log</c>; its id.</summary>
    internal static int Start(string host, string name, IReadOnlyList<string> command)
    {
        string log = LabDirectory.InRun(name + ".log");
        // setsid: Ctrl-C at the terminal reaches the lab alone, which then ends what it started in order.
        ProcessStartInfo start = new("ip")
        {
            ArgumentList =
            {
                "netns", "exec", LabDirectory.Namespace(host),
                "sh", "-c", "exec setsid \"$@\" >>\"$0\" 2>&1 </dev/null", log,
            },
            WorkingDirectory = "/",
        };
        start.Environment["PATH"] = string.Join(':', Tool.SearchPath);
        foreach (string word in command)
        {
            start.ArgumentList.Add(word);
        }

        using Process process = Process.Start(start)!;
        // exec all the way: ip becomes sh becomes setsid becomes the program, under one id. (setsid forks only when it
        // leads a process group, and a child of ours never does.)
        return process.Id;
    }

    internal static bool IsAlive(int id)
    {
        try
        {
            // The field after the command's closing parenthesis is the state; a zombie only waits to be read, once its
            // last thread has given up what the process holds.
            string stat = File.ReadAllText($"/proc/{id}/stat");
            return stat[stat.LastIndexOf(')') + 2] != 'Z'
                || Directory.EnumerateDirectories($"/proc/{id}/task").Count() > 1;
        }
        catch (IOException)
        {
            return false;
        }
    }

    /// <summary>Asks a process of the lab to end, then ends it.</summary>
    internal static void End(int id, TimeSpan grace)
    {
        Signal(id, LabSignal.Term);
        long began = Stopwatch.GetTimestamp();
        while (IsAlive(id) && Stopwatch.GetElapsedTime(began) < grace)
        {
            Thread.Sleep(10);
        }

        if (IsAlive(id))
        {
            Signal(id, LabSignal.Kill);
        }
    }

    /// <summary>Members of a namespace, by the kernel's account.</summary>
    internal static IEnumerable<int> In(string space) =>
        Tool.Try("ip", "netns", "pids", space).Output
            .Split('\n', StringSplitOptions.RemoveEmptyEntries)
            .Select(text => int.Parse(text, CultureInfo.InvariantCulture))
            .Where(id => id != Environment.ProcessId);

    internal static bool IsQemu(int id) =>
        new FileInfo($"/proc/{id.ToString(CultureInfo.InvariantCulture)}/exe").LinkTarget?
            .Contains("qemu-system", StringComparison.Ordinal) == true;

    /// <summary>Ends every process in the lab's namespaces and waits until none is left.</summary>
    internal static void EndAll()
    {
        // A QEMU whose disk is busy is gone only when its last write is: that may take a while.
        for (int attempt = 0; attempt < 3000; attempt++)
        {
            List<int> left = [.. LabNetwork.Namespaces().SelectMany(In)];
            if (left.Count == 0)
            {
                return;
            }

            foreach (int id in left)
            {
                // A guest's QEMU needs no goodbye here: the lab's disks go with it.
                Signal(id, LabSignal.Kill);
            }

            Thread.Sleep(20);
        }

        throw new LabException(
            "Processes of the lab do not end: " + string.Join(", ", LabNetwork.Namespaces().SelectMany(In)));
    }

    /// <summary>Sends a signal at once; a process that has ended is no failure.</summary>
    internal static void Signal(int id, LabSignal signal) => _ = Kill(id, (int)signal);

    [LibraryImport("libc", EntryPoint = "kill")]
    private static partial int Kill(int id, int signal);

    private static IReadOnlyList<string> FindSelf()
    {
        string program = Environment.ProcessPath!;
        return Path.GetFileNameWithoutExtension(program) == "dotnet" || Path.GetFileName(program) != "godwit-lab"
            ? ["dotnet", typeof(LabProcesses).Assembly.Location]
            : [program];
    }
}

/// <summary>Signals by the kernel's numbers.</summary>
internal enum LabSignal
{
    Kill = 9,
    Term = 15,
    Cont = 18,
    Stop = 19,
}
