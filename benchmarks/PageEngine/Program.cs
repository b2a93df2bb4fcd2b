using System.Globalization;
using Godwit.PageEngine;
using Godwit.Pages;

if (args.Length == 0 || args[0] is "-h" or "--help")
{
    Console.Error.WriteLine(
        "page-engine FILE|PID [SECONDS]: the cost of every step on a guest's memory, per core, in GB/s of pages.\n"
        + "FILE is a dump of guest memory; PID a QEMU with shared memory. With SECONDS it looks twice, for deltas.");
    return args.Length == 0 ? 2 : 0;
}

GuestDump dump = GuestDump.Take(args[0], args.Length > 1 ? double.Parse(args[1], CultureInfo.InvariantCulture) : 0);
Console.WriteLine(
    $"{dump.Total} pages, {dump.Count} not zero, {dump.Changed.Length / Page.Size / 2} changed; "
    + $"AVX-512 {System.Runtime.Intrinsics.Vector512.IsHardwareAccelerated}");
Trial[] trials = [.. Trials.All(dump)];
const double seconds = 1;
// Interleaved: what disturbs one step's run on a shared machine disturbs the next one's too. Quick steps run often, so
// that the compiler is done with them; a slow one at least once.
for (int pass = 0; pass < 30; pass++)
{
    foreach (Trial trial in trials.Where(trial => trial.Seconds < seconds))
    {
        trial.Run();
    }
}

Console.WriteLine($"{"step",-28}{"GB/s",8}{"back",8}{"ratio",8}");
foreach (Trial trial in trials)
{
    Console.WriteLine(trial);
}

return 0;
