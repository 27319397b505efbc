"""Run names: adjective, animal and a number, such as `cowardly-goose-1`."""

from __future__ import annotations

import random

ADJECTIVES = (
    "able bold brave bright brisk calm chatty cheeky clever cosy cowardly curious dapper daring deft eager earnest "
    "fancy fast fierce fluffy fond frank friendly frosty funny gentle giddy glad golden grand grumpy happy hasty "
    "honest humble hungry jolly keen kind lazy light little lively loud lucky mellow merry mighty modest nimble noble "
    "odd patient perky placid plucky polite proud quick quiet rapid rare restless rowdy rusty salty sharp shy silent "
    "silly sleepy sly smart smooth snappy snug soft spry stout strong sunny swift tame tidy tiny tough vivid warm wary "
    "wild wise witty young zany zesty"
).split()
ANIMALS = (
    "ant ape badger bat bear beaver bee bison boar camel cat cheetah cobra cod crab crane crow deer dingo dog donkey "
    "dove duck eagle eel elk emu falcon ferret finch fish fly fox frog gecko gibbon goat goose gull hare hawk hen "
    "heron "
    "hippo hornet horse hyena ibex impala jackal jay kiwi koala lark lemur lion lizard llama lobster lynx magpie mole "
    "moose moth mouse mule newt ocelot octopus orca otter owl ox panda parrot pigeon pony puma quail rabbit ram rat "
    "raven robin salmon seal shark sheep shrew skunk sloth snail squid stork swan tapir tiger toad trout turkey viper "
    "vole walrus wasp weasel whale wolf wombat wren yak zebra"
).split()


def propose(random_source: random.Random, number: int = 1) -> str:
    """A name that may or may not be taken; the unique constraint decides."""
    return f"{random_source.choice(ADJECTIVES)}-{random_source.choice(ANIMALS)}-{number}"
