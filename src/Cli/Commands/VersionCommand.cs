using System.CommandLine;
using System.Reflection;
using System.Text.Json.Nodes;
using Godwit.Api.V1;
using Godwit.Cli.Output;

namespace Godwit.Cli.Commands;

/// <summary><c>godwit version</c>: this command's version, and the daemon's if one answers.</summary>
internal static class VersionCommand
{
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(2);

    public static Command Build(GodwitCommand godwit) => godwit.Verb(
        "version", "Print the versions of this command, the daemon and its QEMU.",
        ["godwit version", "godwit version -o json"], [],
        async (session, cancellation) =>
        {
            VersionInfo? daemon = null;
            string absent = "";
            try
            {
                daemon = await session.Client.AskAsync(
                    (control, options) => control.GetVersionAsync(new GetVersionRequest(), options),
                    cancellation, Patience);
            }
            catch (CommandException failure)
            {
                absent = failure.Message;
            }

            string own = typeof(VersionCommand).Assembly
                .GetCustomAttribute<AssemblyInformationalVersionAttribute>()?.InformationalVersion ?? "unknown";
            session.Answer(new Answer
            {
                Data = new JsonObject
                {
                    ["version"] = own,
                    ["daemon"] = daemon is null ? null : new JsonObject
                    {
                        ["version"] = daemon.Version,
                        ["host"] = daemon.Host,
                        ["wireVersionMin"] = daemon.WireVersionMin,
                        ["wireVersionMax"] = daemon.WireVersionMax,
                        ["qemuVersion"] = Json.Text(daemon.QemuVersion),
                        ["accelerator"] = Json.Text(daemon.Accelerator),
                    },
                },
                Names = [own],
                Text = _ =>
                [
                    new Fields(daemon is null
                        ? [("godwit", own), ("godwitd", $"not reached: {absent}")]
                        :
                        [
                            ("godwit", own),
                            ("godwitd", $"{daemon.Version} on {daemon.Host}"),
                            ("wire protocol", Units.Invariant($"{daemon.WireVersionMin} to {daemon.WireVersionMax}")),
                            ("qemu", daemon.QemuVersion),
                            ("accelerator", daemon.Accelerator),
                        ]),
                ],
            });
            return 0;
        });
}
