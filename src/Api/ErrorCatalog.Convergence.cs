namespace Godwit.Api;

/// <summary>Policies, budgets and postcopy: what is refused beforehand, and what goes wrong with them.</summary>
public static partial class ErrorCatalog
{
    private static void AddConvergence(AddEntry add)
    {
        add("policy-unknown", ExitCodes.Refused,
            "The host knows no policy of this name.", "'godwit policy list' shows those that it knows.");
        add("policy-invalid", ExitCodes.Refused,
            "The host's file of policies cannot be used.",
            "The message names the fault. Correct the file, or move it away: the shipped policies then hold.");
        add("policy-forbids", ExitCodes.Refused,
            "The policy has no step 'postcopy', and the method that was asked for would lose the guest together with "
            + "its source host.",
            "Choose another method, or a policy that has the step: 'godwit policy show NAME'.");
        add("budget-impossible", ExitCodes.Refused,
            "The pause that is allowed is shorter than what any guest's hand-over takes.",
            "Allow a longer pause with --max-downtime.");
        add("migration-late", ExitCodes.Refused,
            "What was asked for can be changed only while the guest runs at the source.",
            "'godwit migration show ID' tells where the migration stands.");
        add("postcopy-memory", ExitCodes.Refused,
            "Memory of the guest is private to its QEMU, so nothing can send it once the guest has left.",
            "Give the guest shared memory and no video adapter, or move it by precopy.");
        add("postcopy-qemu", ExitCodes.Refused,
            "A QEMU is too old to turn to postcopy under Godwit.",
            "Install QEMU 8.1 or later (9.0 without KVM), or move the guest by precopy.");
        add("postcopy-userfaultfd", ExitCodes.Refused,
            "The destination's QEMU may not wait for single pages of memory.",
            "On the destination: sysctl vm.unprivileged_userfaultfd=1, or give the daemon's user /dev/userfaultfd.");
        add("postcopy-recovery", ExitCodes.Refused,
            "A destination's daemon that died in postcopy could not be followed by another: it may not look into QEMU.",
            "On the destination: sysctl kernel.yama.ptrace_scope=0, or give the daemon CAP_SYS_PTRACE.");
        add("postcopy-locked-memory", ExitCodes.Refused,
            "Memory of the guest is locked, as for a device that reaches into it: it has to be there first.",
            "Move the guest by precopy, or give the device back first.");
        add("postcopy-huge-pages", ExitCodes.Refused,
            "The destination gives shared memory huge pages, which would stand in for pages that have not come.",
            "On the destination: echo never > /sys/kernel/mm/transparent_hugepage/shmem_enabled.");
    }
}
