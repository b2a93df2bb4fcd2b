using CsCheck;

namespace Godwit.Pages.Tests;

public class DirtySetTests
{
    // Goal: the set is a set. Method: random operations on it and on a HashSet side by side.
    [Fact]
    public void Behaves_as_a_set_of_page_numbers()
    {
        Gen.Select(Gen.Int[1, 3000], Gen.Select(Gen.Int[0, 7], Gen.Int[0, 2999]).Array[0, 200]).Sample(
            (pageCount, operations) =>
            {
                var set = new DirtySet(pageCount);
                var other = new DirtySet(pageCount);
                var model = new HashSet<long>();
                var otherModel = new HashSet<long>();
                foreach ((int operation, int value) in operations)
                {
                    long page = value % pageCount;
                    switch (operation)
                    {
                        case 0 or 1 or 2:
                            Assert.Equal(model.Add(page), set.Add(new PageNumber(page)));
                            break;
                        case 3:
                            Assert.Equal(model.Remove(page), set.Remove(new PageNumber(page)));
                            break;
                        case 4:
                            set.Swap(other);
                            (model, otherModel) = (otherModel, model);
                            break;
                        case 5:
                            set.ClearRegion(page / Page.RegionPages);
                            model.RemoveWhere(p => p / Page.RegionPages == page / Page.RegionPages);
                            break;
                        case 6:
                            set.UnionWith(other);
                            model.UnionWith(otherModel);
                            break;
                        default:
                            if (value % 16 == 0)
                            {
                                set.AddAll();
                                model.UnionWith(Enumerable.Range(0, pageCount).Select(p => (long)p));
                            }
                            else if (value % 16 == 1)
                            {
                                set.Clear();
                                model.Clear();
                            }

                            break;
                    }

                    Assert.Equal(model.Contains(page), set.Contains(new PageNumber(page)));
                }

                Assert.Equal(model.Count, set.Count);
                Assert.Equal(model.Order(), set.Select(p => p.Value));
                for (long region = 0; region < set.RegionCount; region++)
                {
                    var here = model.Where(p => p / Page.RegionPages == region).ToList();
                    Assert.Equal(here.Count, set.CountInRegion(region));
                    ReadOnlySpan<ulong> words = set.Region(region);
                    Assert.Equal(8, words.Length);
                    foreach (long page in here)
                    {
                        int bit = (int)(page % Page.RegionPages);
                        Assert.NotEqual(0UL, words[bit / 64] & (1UL << (bit % 64)));
                    }

                    long next = model.Where(p => p / Page.RegionPages >= region)
                        .DefaultIfEmpty(-Page.RegionPages).Min();
                    Assert.Equal(next / Page.RegionPages, set.NextRegion(region));
                }
            });
    }

    [Theory]
    [InlineData(-1)]
    [InlineData(1000)]
    [InlineData(1023)]
    [InlineData(long.MaxValue)]
    [InlineData(long.MinValue)]
    public void A_page_outside_the_block_is_refused(long page)
    {
        var set = new DirtySet(1000);
        Assert.Throws<ArgumentOutOfRangeException>(() => set.Add(new PageNumber(page)));
        Assert.Throws<ArgumentOutOfRangeException>(() => set.Remove(new PageNumber(page)));
        Assert.Throws<ArgumentOutOfRangeException>(() => set.Contains(new PageNumber(page)));
        Assert.Equal(0, set.Count);
    }

    [Fact]
    public void Sets_of_different_sizes_never_mix()
    {
        Assert.Throws<ArgumentOutOfRangeException>(() => new DirtySet(10).Swap(new DirtySet(11)));
        Assert.Throws<ArgumentOutOfRangeException>(() => new DirtySet(10).UnionWith(new DirtySet(11)));
    }

    [Fact]
    public void Walking_and_marking_allocate_nothing()
    {
        var set = new DirtySet(100_000);
        long seen = 0;
        Assert.Equal(0, Allocations.Least(() => seen += Walk(set)));
        Assert.True(seen > 0);

        static long Walk(DirtySet set)
        {
            for (long page = 0; page < set.PageCount; page += 3)
            {
                set.Add(new PageNumber(page));
            }

            long sum = 0;
            foreach (PageNumber page in set)
            {
                sum += page.Value;
            }

            for (long region = set.NextRegion(0); region >= 0; region = set.NextRegion(region + 1))
            {
                set.ClearRegion(region);
            }

            return sum;
        }
    }
}
