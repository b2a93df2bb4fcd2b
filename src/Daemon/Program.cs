using Godwit.Api;
using Godwit.Daemon;
using Godwit.Migration;

const string Usage = """
    godwitd: runs this host's guests and moves them to and from other hosts.

    Usage: godwitd [options]
      --config DIR|FILE   configuration, /etc/godwit by default: DIR/godwitd.json, then DIR/conf.d/*.json
      --state-dir DIR     registry and journals, /var/lib/godwit by default
      --runtime-dir DIR   sockets, /run/godwit by default
      --host-name NAME    this host's name in the cluster
      --address ADDRESS   name or IP address at which peers reach this host
      --log-format FORMAT text, json or systemd
      --check-config      reads and checks the configuration, prints what is in force, and ends
      --version           prints the version and ends
      --help              prints this and ends

    Every key of the configuration can be set in the environment as GODWIT_KEY.
    Exit status: 0 ended as asked, 1 failed, 2 bad configuration, 3 an address, a directory or a lock is not to be had,
    5 a key or certificate is refused.
    """;

var arguments = args.ToList();
if (arguments.Contains("--help"))
{
    Console.WriteLine(Usage);
    return ExitCodes.Ok;
}

if (arguments.Contains("--version"))
{
    Console.WriteLine($"godwitd {VersionText.Own}");
    return ExitCodes.Ok;
}

try
{
    var checkOnly = arguments.Remove("--check-config");
    var settings = SettingsReader.Read(arguments, Environment.GetEnvironmentVariables());
    if (checkOnly)
    {
        Console.WriteLine(settings.Describe());
        return ExitCodes.Ok;
    }

    await using var daemon = await GodwitDaemon.StartAsync(settings, TimeProvider.System);
    await daemon.WaitForShutdownAsync();
    return ExitCodes.Ok;
}
catch (GodwitException exception)
{
    // The same shape as the CLI's errors: what is wrong with its code, then the remedy.
    Console.Error.WriteLine($"godwitd: error {exception.Code}: {exception.Message}");
    if (exception.Remedy.Length > 0)
    {
        Console.Error.WriteLine($"  {exception.Remedy}");
    }

    return ErrorCatalog.Find(exception.Code)?.ExitCode ?? ExitCodes.Failed;
}
