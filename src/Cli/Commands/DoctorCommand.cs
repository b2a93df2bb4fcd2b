using System.CommandLine;
using Godwit.Api;
using Godwit.Api.V1;
using Godwit.Cli.Output;

namespace Godwit.Cli.Commands;

/// <summary><c>godwit doctor</c>: the health of this host, from whether the daemon answers to what it finds.</summary>
internal static class DoctorCommand
{
    public static Command Build(GodwitCommand godwit) => godwit.Verb(
        "doctor", "Check this host: daemon, QEMU, accelerator, bridges, certificates.",
        ["godwit doctor", "godwit doctor -o json | jq '.[] | select(.severity == \"error\")'"], [],
        async (session, cancellation) =>
        {
            var findings = new List<Finding>();
            try
            {
                var answer = await session.Client.AskAsync(
                    (daemon, options) => daemon.DiagnoseAsync(new DiagnoseRequest(), options), cancellation);
                findings.Add(new Finding
                {
                    Code = "daemon", Severity = Severity.Ok, Subject = "daemon",
                    Detail = $"answers at {session.Client.SocketPath}",
                });
                findings.AddRange(answer.Findings);
            }
            catch (CommandException failure)
            {
                // An unreachable daemon is the finding, not a reason to find nothing.
                findings.Add(new Finding
                {
                    Code = failure.Code, Severity = Severity.Error, Subject = "daemon",
                    Detail = failure.Message, Remedy = failure.Remedy,
                });
            }

            session.Answer(HostAnswers.Findings(findings));
            return findings.Any(finding => finding.Severity == Severity.Error) ? ExitCodes.Failed : ExitCodes.Ok;
        });
}
